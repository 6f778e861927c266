//! A keep-alive HTTP/1.1 client that costs next to nothing: the load shares the cores with what it measures.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Sender, Turn};
use crate::orders;

/// One connection; one request at a time.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::with_capacity(1024),
            response: Vec::with_capacity(4096),
        })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, String)> {
        self.request.clear();
        let head = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.request.extend_from_slice(head.as_bytes());
        self.exchange().await
    }

    /// Sends a command of an order; an error unless it is accepted.
    pub(crate) async fn command(&mut self, id: &str, step: usize, customer: usize) -> Result<()> {
        let (command_type, data) = orders::command(step, customer);
        let length = data.len() + command_type.len() + r#"{"type":"","data":}"#.len();
        self.request.clear();
        self.request.extend_from_slice(
            format!(
                "POST /commands/order/{id} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n{{\"type\":\"{command_type}\",\"data\":{data}}}"
            )
            .as_bytes(),
        );
        let (status, body) = self.exchange().await?;
        ensure!(status == 201, "order {id}: {status} {body}");
        Ok(())
    }

    async fn exchange(&mut self) -> Result<(u16, String)> {
        self.stream.write_all(&self.request).await?;
        self.response.clear();
        loop {
            let read = self.stream.read_buf(&mut self.response).await?;
            ensure!(read > 0, "the server closed the connection");
            if let Some(answer) = parse(&self.response)? {
                return Ok(answer);
            }
        }
    }
}

/// Status and body once all of it is there.
fn parse(response: &[u8]) -> Result<Option<(u16, String)>> {
    let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&response[..end])?;
    let status = head.get(9..12).context("no status line")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>())
    });
    let Some(length) = length else {
        bail!("the answer has no content-length: {head}");
    };
    let body = &response[end + 4..];
    if body.len() < length? {
        return Ok(None);
    }
    Ok(Some((status, String::from_utf8_lossy(body).into_owned())))
}

impl Sender for Client {
    async fn send(&mut self, turn: &Turn) -> Result<()> {
        self.command(&turn.id, turn.step, turn.number).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_when_its_body_is_complete() -> Result<()> {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody";
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length])?, None);
        }
        assert_eq!(parse(answer)?, Some((201, "body".to_owned())));
        Ok(())
    }
}
