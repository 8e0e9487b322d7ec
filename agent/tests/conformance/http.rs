//! HTTP as a client writes it on a socket, so that nothing is hidden: each header line, each byte, each early end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing here takes long; a hang is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// An answer, as far as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> usize {
        let length = self
            .header("content-length")
            .expect("a length is always told");
        length.parse().unwrap()
    }

    /// The code in an OCI error body.
    pub(crate) fn oci_code(&self) -> String {
        let body: serde_json::Value =
            serde_json::from_slice(&self.body).expect("an OCI error body");
        body["errors"][0]["code"]
            .as_str()
            .expect("a code")
            .to_owned()
    }

    /// Headers that do not differ from one request to the next.
    pub(crate) fn stable_headers(&self) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        headers.retain(|(key, _)| key != "date");
        headers.sort();
        headers
    }
}

/// A connection on which one request after the other is written.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(addr))
            .await
            .unwrap()
            .unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: agent\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.write_all(body).await.unwrap();
    }

    /// The head of an answer; its body is still to come.
    pub(crate) async fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(
                self.more().await,
                "the connection ended before a head: {:?}",
                self.read
            );
        };
        let text = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").expect("a header line"))
            .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Reply {
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// Up to `count` bytes of a body; fewer when the connection ends.
    pub(crate) async fn body(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            if !self.more().await {
                break;
            }
        }
        let taken = self.read.len().min(count);
        self.read.drain(..taken).collect()
    }

    /// A whole answer, or what came of it.
    pub(crate) async fn answer(&mut self, method: &str) -> Reply {
        let mut reply = self.head().await;
        if method != "HEAD" {
            let length = reply.length();
            reply.body = self.body(length).await;
        }
        reply
    }

    /// `false` at the end of the connection, orderly or not.
    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        match timeout(DEADLINE, self.stream.read(&mut buffer))
            .await
            .expect("the agent answers in time")
        {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(addr: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Reply {
    let mut connection = Connection::open(addr).await;
    connection.send(method, path, headers, b"").await;
    connection.answer(method).await
}

pub(crate) async fn get(addr: SocketAddr, path: &str, headers: &[&str]) -> Reply {
    request(addr, "GET", path, headers).await
}

pub(crate) async fn head(addr: SocketAddr, path: &str, headers: &[&str]) -> Reply {
    request(addr, "HEAD", path, headers).await
}
