//! The reader, the lanes and the recorder, and how they stop together.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::http::{Answer, Server};
use super::line::{Line, LineReader, Shape};
use super::record::{Recorder, Settled, Summary};

/// Longest line that is read; the producer takes no larger body either.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Lines that wait for their lane.
const LANE_QUEUE: usize = 16;
/// Answers that wait for the recorder.
const RECORDER_QUEUE: usize = 1024;

/// Where lines come from.
pub(super) struct Input {
    lines: Box<dyn BufRead + Send>,
    bytes: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input where there is none.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                lines: Box::new(BufReader::new(std::io::stdin())),
                bytes: None,
            });
        };
        let named = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(named)?;
        let metadata = file.metadata().with_context(named)?;
        anyhow::ensure!(!metadata.is_dir(), "{} is a directory", path.display());
        Ok(Self {
            bytes: metadata.is_file().then_some(metadata.len()),
            lines: Box::new(BufReader::with_capacity(1 << 16, file)),
        })
    }
}

/// The first reason to stop, shared by all parts of a run.
#[derive(Clone, Default)]
struct Stop {
    token: CancellationToken,
    reason: Arc<Mutex<Option<String>>>,
}

impl Stop {
    fn because(&self, reason: String) {
        let mut first = self
            .reason
            .lock()
            .expect("no thread panics with the reason");
        first.get_or_insert(reason);
        self.token.cancel();
    }
}

enum Done {
    Settled(Settled),
    Blank(u64),
}

/// Sends every line; ends early when the server stays away, an output cannot be written, or on Ctrl-C.
pub(super) async fn send(
    input: Input,
    shape: Shape,
    server: Server,
    recorder: Recorder,
    lanes: usize,
) -> anyhow::Result<Summary> {
    let stop = Stop::default();
    let bar = super::progress(input.bytes);
    let (done, outcomes) = mpsc::channel(RECORDER_QUEUE);
    let mut workers = JoinSet::new();
    let queues = (0..lanes)
        .map(|_| {
            let (queue, lines) = mpsc::channel(LANE_QUEUE);
            workers.spawn(lane(lines, server.clone(), done.clone(), stop.clone()));
            queue
        })
        .collect();
    let reader = Reader {
        lines: LineReader::new(shape),
        queues,
        // Weak: a reader that hangs in standard input must not keep the recorder waiting after a stop. While it
        // reads, its queues keep the lanes alive, and those hold the channel open.
        done: done.downgrade(),
        stop: stop.clone(),
        bar: bar.clone(),
    };
    drop(done);
    // A thread of its own, which nobody joins: a read of standard input cannot be interrupted.
    std::thread::Builder::new()
        .name("read-lines".to_owned())
        .spawn(move || reader.run(input.lines))?;
    let interrupted = stop.clone();
    let interrupt = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.because("interrupted".to_owned());
        }
        let _ = tokio::signal::ctrl_c().await;
        std::process::exit(1);
    });
    let mut summary = record(outcomes, recorder, &stop, &bar).await;
    interrupt.abort();
    bar.finish_and_clear();
    let mut reason = stop
        .reason
        .lock()
        .expect("no thread panics with the reason");
    summary.stopped = reason.take();
    Ok(summary)
}

/// Takes whatever is settled, writes it and flushes once.
async fn record(
    mut outcomes: mpsc::Receiver<Done>,
    mut recorder: Recorder,
    stop: &Stop,
    bar: &indicatif::ProgressBar,
) -> Summary {
    let mut batch = Vec::new();
    loop {
        let received = outcomes.recv_many(&mut batch, RECORDER_QUEUE).await;
        if received == 0 {
            return recorder.summary;
        }
        let mut settled = Vec::with_capacity(batch.len());
        for done in batch.drain(..) {
            match done {
                Done::Settled(one) => settled.push(one),
                Done::Blank(number) => recorder.settle(number),
            }
        }
        if let Err(error) = recorder.record(&settled) {
            let last = settled.last().map_or(0, |one| one.number);
            stop.because(format!("{error:#} (recording up to line {last})"));
            // Commands in flight are still answered, but nothing can be written down any more.
            return recorder.summary;
        }
        let summary = &recorder.summary;
        bar.set_message(format!(
            "accepted {} repeated {} refused {}",
            summary.accepted, summary.repeated, summary.refused
        ));
    }
}

/// Sends the lines of its aggregates, one after another.
async fn lane(
    mut lines: mpsc::Receiver<Line>,
    server: Server,
    done: mpsc::Sender<Done>,
    stop: Stop,
) {
    loop {
        let line = tokio::select! {
            biased;
            () = stop.token.cancelled() => return,
            line = lines.recv() => line,
        };
        let Some(line) = line else { return };
        let (id, answer) = match &line.command {
            Err(reason) => {
                let reason = reason.clone();
                (
                    None,
                    Ok(Answer::Refused {
                        status: 400,
                        reason,
                    }),
                )
            }
            Ok(command) => (Some(command.id.clone()), server.send(command).await),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(away) => return stop.because(format!("line {}: {away}", line.number)),
        };
        let settled = Settled {
            number: line.number,
            input: line.input,
            id,
            answer,
        };
        // The recorder went away only after it said why.
        if done.send(Done::Settled(settled)).await.is_err() {
            return;
        }
    }
}

struct Reader {
    lines: LineReader,
    queues: Vec<mpsc::Sender<Line>>,
    done: mpsc::WeakSender<Done>,
    stop: Stop,
    bar: indicatif::ProgressBar,
}

impl Reader {
    fn run(mut self, mut input: Box<dyn BufRead + Send>) {
        let mut bytes = Vec::new();
        for number in 1.. {
            if self.stop.token.is_cancelled() {
                return;
            }
            let read = match read_line(&mut input, &mut bytes) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) => {
                    return self
                        .stop
                        .because(format!("cannot read line {number}: {error}"));
                }
            };
            self.bar.inc(read);
            if self.hand_over(number, &bytes).is_err() {
                return;
            }
        }
    }

    /// `Err` when the run has stopped.
    fn hand_over(&mut self, number: u64, bytes: &[u8]) -> Result<(), ()> {
        if bytes.trim_ascii().is_empty() {
            let done = self.done.upgrade().ok_or(())?;
            return done.blocking_send(Done::Blank(number)).map_err(drop);
        }
        let line = if bytes.len() > LINE_BYTES_MAX {
            Line {
                number,
                input: "null".to_owned(),
                command: Err(format!("the line is longer than {LINE_BYTES_MAX} bytes")),
            }
        } else {
            self.lines.read(number, bytes)
        };
        let queue = lane_of(&line, self.queues.len());
        self.queues[queue].blocking_send(line).map_err(drop)
    }
}

/// Lines that are no command have no order to keep.
fn lane_of(line: &Line, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    match &line.command {
        Ok(command) => (&command.aggregate, &command.id).hash(&mut hasher),
        Err(_) => line.number.hash(&mut hasher),
    }
    (hasher.finish() % lanes as u64) as usize
}

/// Reads one line without its end; of one that is too long only its start is kept. 0 at the end of input.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<u64> {
    line.clear();
    let mut read = input
        .take(LINE_BYTES_MAX as u64 + 2)
        .read_until(b'\n', line)? as u64;
    if line.ends_with(b"\n") {
        line.pop();
        return Ok(read);
    }
    if line.len() > LINE_BYTES_MAX {
        read += skip_line(input)?;
    }
    Ok(read)
}

fn skip_line(input: &mut dyn BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let (used, end) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(used);
        skipped += used as u64;
        if end {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_read_whole() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 70_000];
        text.extend_from_slice(b"\nnext\n\nlast");
        let mut input: &[u8] = &text;
        let mut line = Vec::new();
        let mut read = read_line(&mut input, &mut line).unwrap();
        assert!(line.len() > LINE_BYTES_MAX);
        let mut lines = Vec::new();
        loop {
            match read_line(&mut input, &mut line).unwrap() {
                0 => break,
                more => read += more,
            }
            lines.push(line.clone());
        }
        assert_eq!(lines, [&b"next"[..], b"", b"last"]);
        assert_eq!(read, text.len() as u64);
    }
}
