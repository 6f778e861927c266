//! A mail server on this machine: it takes messages over, refuses, breaks off or is away, as a test says for each recipient.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What becomes of messages to a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// They are taken over.
    Well,
    /// RCPT is answered with this.
    RefusesRecipient(&'static str),
    /// The end of the message is answered with this.
    RefusesMessage(&'static str),
    /// The connection is closed at DATA.
    BreaksOffBefore,
    /// The message is taken over, and the connection is closed instead of an answer.
    BreaksOffAfter,
    /// The message is taken over, and nothing is ever answered.
    FallsSilent,
}

/// A message that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its recipient.
    pub to: String,
    /// Headers and body as they came.
    pub raw: String,
}

impl Taken {
    /// A header's value, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let (head, _) = self.raw.split_once("\r\n\r\n")?;
        let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let named = |line: &str| {
            let (found, value) = line.split_once(':')?;
            let same = found.eq_ignore_ascii_case(name);
            same.then(|| value.trim().to_owned())
        };
        head.split("\r\n").find_map(named)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Modes to come for a recipient, the last of them for good.
    modes: HashMap<String, Vec<Mode>>,
    taken: Vec<Taken>,
    /// How often each recipient was named.
    named: HashMap<String, usize>,
    /// Who signed in, as AUTH PLAIN has it.
    signed_in: Vec<String>,
}

type Shared = Arc<Mutex<State>>;

/// Listens on a port of its own until it is dropped, and on the same one whenever it comes back.
pub struct Smtp {
    address: SocketAddr,
    state: Shared,
    up: Option<(DropGuard, JoinHandle<()>)>,
}

impl Smtp {
    /// A server that takes everything over.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut server = Self {
            address: listener.local_addr()?,
            state: Shared::default(),
            up: None,
        };
        server.serve(listener);
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, down) = (self.state.clone(), CancellationToken::new());
        let task = tokio::spawn({
            let down = down.clone();
            async move {
                // Dropped with the task: a server that goes down breaks its connections.
                let mut sessions = JoinSet::new();
                loop {
                    tokio::select! {
                        Ok((stream, _)) = listener.accept() => {
                            sessions.spawn(session(stream, state.clone()));
                        }
                        Some(_) = sessions.join_next() => {}
                        () = down.cancelled() => return,
                    }
                }
            }
        });
        self.up = Some((down.drop_guard(), task));
    }

    /// Nobody listens on the port any longer.
    pub async fn go_down(&mut self) {
        if let Some((up, task)) = self.up.take() {
            drop(up);
            let _ = task.await;
        }
    }

    /// Listens on the same port again.
    pub async fn come_back(&mut self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        self.serve(socket.listen(64)?);
        Ok(())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Treats messages to this recipient so: the first the first time, and the last for good.
    pub fn set(&self, recipient: &str, modes: &[Mode]) {
        let modes = modes.iter().rev().cloned().collect();
        lock(&self.state).modes.insert(recipient.to_owned(), modes);
    }

    /// What was taken over for this recipient.
    #[must_use]
    pub fn taken(&self, recipient: &str) -> Vec<Taken> {
        let state = lock(&self.state);
        let theirs = state.taken.iter().filter(|taken| taken.to == recipient);
        theirs.cloned().collect()
    }

    /// How often somebody wanted to write to this recipient.
    #[must_use]
    pub fn named(&self, recipient: &str) -> usize {
        lock(&self.state).named.get(recipient).copied().unwrap_or(0)
    }

    /// Who signed in, as AUTH PLAIN has it, each time.
    #[must_use]
    pub fn signed_in(&self) -> Vec<String> {
        lock(&self.state).signed_in.clone()
    }
}

fn lock(state: &Shared) -> std::sync::MutexGuard<'_, State> {
    // A panic in a test leaves the lists as they were.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mode of the next message; the last one stays.
fn next_mode(state: &Shared, recipient: &str) -> Mode {
    let mut state = lock(state);
    *state.named.entry(recipient.to_owned()).or_default() += 1;
    match state.modes.get_mut(recipient) {
        Some(modes) if modes.len() > 1 => modes.pop().unwrap_or(Mode::Well),
        Some(modes) => modes.last().cloned().unwrap_or(Mode::Well),
        None => Mode::Well,
    }
}

/// One client, until it goes or is broken off.
async fn session(stream: TcpStream, state: Shared) -> Result<()> {
    let (reading, writing) = stream.into_split();
    let (mut input, mut output) = (BufReader::new(reading), BufWriter::new(writing));
    say(&mut output, "220 localhost ESMTP").await?;
    let mut recipient = None;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                say(
                    &mut output,
                    "250-localhost\r\n250-8BITMIME\r\n250 AUTH PLAIN",
                )
                .await?
            }
            "AUTH" => {
                lock(&state).signed_in.push(rest.to_owned());
                say(&mut output, "235 2.7.0 welcome").await?;
            }
            "RCPT" => {
                let to = address(rest).to_owned();
                let mode = next_mode(&state, &to);
                match &mode {
                    Mode::RefusesRecipient(answer) => say(&mut output, answer).await?,
                    _ => say(&mut output, "250 2.1.5 ok").await?,
                }
                recipient = Some((to, mode));
            }
            "DATA" => {
                let Some((to, mode)) = recipient.take() else {
                    say(&mut output, "503 5.5.1 no recipient").await?;
                    continue;
                };
                if mode == Mode::BreaksOffBefore {
                    return Ok(());
                }
                say(&mut output, "354 go on").await?;
                let raw = message(&mut input).await?;
                let number = match &mode {
                    Mode::RefusesMessage(answer) => {
                        say(&mut output, answer).await?;
                        continue;
                    }
                    _ => {
                        let mut state = lock(&state);
                        state.taken.push(Taken { to, raw });
                        state.taken.len()
                    }
                };
                match mode {
                    Mode::BreaksOffAfter => return Ok(()),
                    Mode::FallsSilent => std::future::pending::<()>().await,
                    _ => say(&mut output, &format!("250 2.0.0 queued as {number}")).await?,
                }
            }
            "QUIT" => return say(&mut output, "221 2.0.0 bye").await,
            "MAIL" | "RSET" | "NOOP" => say(&mut output, "250 2.0.0 ok").await?,
            _ => say(&mut output, "500 5.5.2 what?").await?,
        }
    }
}

async fn say(output: &mut BufWriter<OwnedWriteHalf>, line: &str) -> Result<()> {
    output.write_all(format!("{line}\r\n").as_bytes()).await?;
    Ok(output.flush().await?)
}

/// What stands between the brackets of `TO:<ada@example.org>`.
fn address(rest: &str) -> &str {
    let (_, from) = rest.split_once('<').unwrap_or(("", rest));
    from.split_once('>').map_or(from, |(address, _)| address)
}

/// Up to the line with nothing but a dot; the dots that were doubled are single again.
async fn message(input: &mut BufReader<OwnedReadHalf>) -> Result<String> {
    let mut raw = String::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).await? == 0 {
            anyhow::bail!("the client went before the end of its message");
        }
        if line == ".\r\n" {
            return Ok(raw);
        }
        raw.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
