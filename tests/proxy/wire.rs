//! As much of HTTP/1.1 as a proxy needs: heads stay the bytes that they are, bodies are passed on piece by piece.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A head longer than this is none.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The head of a request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// As it came, with the empty line.
    pub raw: Vec<u8>,
    /// Its first line, in words.
    pub words: Vec<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// How a body tells where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Nothing,
    Length(u64),
    Chunked,
    UntilClosed,
}

impl Head {
    /// The next head; none when the other side has hung up.
    pub fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        loop {
            let start = head.raw.len();
            if from.read_until(b'\n', &mut head.raw)? == 0 {
                return match start {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            if head.raw.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let line = String::from_utf8_lossy(&head.raw[start..])
                .trim()
                .to_owned();
            if line.is_empty() {
                return Ok(Some(head));
            }
            if head.words.is_empty() {
                head.words = line.split(' ').map(str::to_owned).collect();
            } else if let Some((name, value)) = line.split_once(':') {
                let header = (name.to_ascii_lowercase(), value.trim().to_owned());
                head.headers.push(header);
            }
        }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a header has this word.
    pub fn says(&self, name: &str, word: &str) -> bool {
        self.header(name)
            .is_some_and(|value| value.to_ascii_lowercase().contains(word))
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        let word = self.words.get(1).map(String::as_str);
        word.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn told_framing(&self) -> Option<Framing> {
        if self.says("transfer-encoding", "chunked") {
            return Some(Framing::Chunked);
        }
        let length = self.header("content-length")?.parse().ok()?;
        Some(if length == 0 {
            Framing::Nothing
        } else {
            Framing::Length(length)
        })
    }

    /// Where the body of a request ends.
    pub fn request_framing(&self) -> Framing {
        self.told_framing().unwrap_or(Framing::Nothing)
    }

    /// Where the body of the answer to a request with `method` ends.
    pub fn answer_framing(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status(), 100..=199 | 204 | 304) {
            return Framing::Nothing;
        }
        self.told_framing().unwrap_or(Framing::UntilClosed)
    }
}

/// What passes a body on, and what happens to it on its way.
pub struct Body<'a> {
    pub from: &'a mut BufReader<TcpStream>,
    /// Nobody, where the body is thrown away.
    pub to: Option<&'a TcpStream>,
    /// The connection is cut when so many bytes have passed.
    pub cut_after: Option<u64>,
    /// One byte is changed.
    pub flip: bool,
    /// Called with the length of each piece before it is passed on.
    pub pace: &'a dyn Fn(usize),
    /// Bytes of content so far, without what marks chunks.
    pub passed: u64,
}

impl Body<'_> {
    /// Passes on all of it. Fails where it was cut.
    pub fn pass(&mut self, framing: Framing) -> io::Result<()> {
        if self.cut_after == Some(0) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match framing {
            Framing::Nothing => Ok(()),
            Framing::Length(length) => self.content(length),
            Framing::Chunked => self.chunks(),
            Framing::UntilClosed => self.until_closed(),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.to {
            Some(mut to) => to.write_all(bytes),
            None => Ok(()),
        }
    }

    fn content(&mut self, mut left: u64) -> io::Result<()> {
        let mut buffer = vec![0; 32 << 10];
        let middle = self.passed + left / 2;
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = self.from.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.piece(&mut buffer[..read], middle)?;
            left -= read as u64;
        }
        Ok(())
    }

    fn piece(&mut self, bytes: &mut [u8], middle: u64) -> io::Result<()> {
        let end = self.passed + bytes.len() as u64;
        if self.flip && (self.passed..end).contains(&middle) {
            bytes[usize::try_from(middle - self.passed).expect("within a piece")] ^= 0x10;
            self.flip = false;
        }
        (self.pace)(bytes.len());
        if let Some(cut) = self.cut_after.filter(|cut| *cut < end) {
            let whole = usize::try_from(cut - self.passed).expect("within a piece");
            self.send(&bytes[..whole])?;
            self.passed = cut;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.send(bytes)?;
        self.passed = end;
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        if self.from.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.send(&line)?;
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }

    fn chunks(&mut self) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                // Trailers, and the empty line.
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.content(size)?;
            self.line()?;
        }
    }

    fn until_closed(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match self.from.read(&mut buffer)? {
                0 => return Ok(()),
                read => {
                    let middle = self.passed;
                    self.piece(&mut buffer[..read], middle)?;
                }
            }
        }
    }
}
