//! The two clear lines before the sealed session, and what binds them to it.
//!
//! The client opens, the server answers; nothing else is ever said in clear, and there is nothing to negotiate.
//!
//! ```
//! use commlink_proto::greeting::{Answer, Hello};
//! let hello = Hello::new("web-database", &[7, 6]).unwrap();
//! assert_eq!(hello.line(), b"FFS/2 web-database 7,6\r\n");
//! assert_eq!(Hello::parse(&hello.line()).unwrap(), hello);
//! let answer = Answer { port: 50_001, generation: 6 };
//! assert_eq!(answer.line(), b"FFS/2 50001 6\r\n");
//! assert_eq!(Answer::parse(&answer.line()).unwrap(), answer);
//! ```

use core::fmt::Write;
use core::str;

use heapless::{String, Vec};
use thiserror::Error;

/// Most bytes of a greeting line, CR LF included.
pub const MAX_GREETING: usize = 64;

/// Most bytes of a link's name: what is left of the line beside two generations of ten digits.
pub const MAX_LINK: usize = MAX_GREETING - "FFS/2 ".len() - " 4294967295,4294967295\r\n".len();

/// Most generations of a bag that a client offers: the present one and, during a rotation, the one before it.
pub const MAX_GENERATIONS: usize = 2;

/// Most bytes of an end's name.
pub const MAX_NAME: usize = 64;

/// Most bytes of a prologue: two lines and two names with their lengths.
pub const MAX_PROLOGUE: usize = 2 * MAX_GREETING + 2 * (2 + MAX_NAME);

const VERSION: &str = "FFS/2 ";

/// One greeting line, CR LF included.
pub type Line = Vec<u8, MAX_GREETING>;

/// Why a greeting was not accepted. For our own log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GreetingError {
    /// Longer than [`MAX_GREETING`], or not ended in time.
    #[error("the greeting is longer than {MAX_GREETING} bytes")]
    TooLong,
    /// Bytes behind the line; neither end may say more before the handshake.
    #[error("bytes follow the greeting")]
    Trailing,
    /// Not `FFS/2` and exactly the expected fields with one space between, or no CR LF.
    #[error("the greeting is malformed")]
    Malformed,
    /// A link name that is empty, too long or not of `a-z`, `0-9` and `-`.
    #[error("the link name is malformed")]
    Link,
    /// Generations that are not one or two descending numbers from 1, without leading zeros.
    #[error("the generations are malformed")]
    Generation,
    /// A port that is not a number from 1 to 65535.
    #[error("the port is malformed")]
    Port,
    /// A name that is empty or longer than [`MAX_NAME`].
    #[error("the name of an end is empty or too long")]
    Name,
}

/// The client's line: `FFS/2 <link> <generation>[,<generation>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    link: String<MAX_LINK>,
    generations: Vec<u32, MAX_GENERATIONS>,
}

impl Hello {
    /// A line for `link` that offers `generations`, newest first.
    ///
    /// # Errors
    /// [`GreetingError::Link`] or [`GreetingError::Generation`].
    pub fn new(link: &str, generations: &[u32]) -> Result<Self, GreetingError> {
        let fits = !link.is_empty() && link.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !fits {
            return Err(GreetingError::Link);
        }
        let link = String::try_from(link).map_err(|_| GreetingError::Link)?;
        let descending = generations.is_sorted_by(|a, b| a > b) && generations.last().is_some_and(|&g| g > 0);
        if !descending {
            return Err(GreetingError::Generation);
        }
        let generations = Vec::from_slice(generations).map_err(|_| GreetingError::Generation)?;
        Ok(Self { link, generations })
    }

    /// The link that the client names: it says which bag, not who the client is.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// The generations offered, newest first.
    pub fn generations(&self) -> &[u32] {
        &self.generations
    }

    /// The bytes on the line.
    pub fn line(&self) -> Line {
        let mut text = String::<MAX_GREETING>::new();
        write!(text, "{VERSION}{} ", self.link).expect(FITS);
        for (i, generation) in self.generations.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(text, "{comma}{generation}").expect(FITS);
        }
        text.push_str("\r\n").expect(FITS);
        text.into_bytes()
    }

    /// Reads a whole line, CR LF included.
    ///
    /// # Errors
    /// A [`GreetingError`]; only what [`Hello::line`] writes is accepted.
    pub fn parse(line: &[u8]) -> Result<Self, GreetingError> {
        let [link, list] = fields(line)?;
        let mut generations = Vec::<u32, MAX_GENERATIONS>::new();
        for text in list.split(',') {
            let generation = number(text).ok_or(GreetingError::Generation)?;
            generations.push(generation).map_err(|_| GreetingError::Generation)?;
        }
        Self::new(link, &generations)
    }
}

/// The server's line: `FFS/2 <P> <generation>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// P: the client's port as the server sees it.
    pub port: u16,
    /// The generation in use: the newest that both hold.
    pub generation: u32,
}

impl Answer {
    /// The bytes on the line.
    pub fn line(&self) -> Line {
        let mut text = String::<MAX_GREETING>::new();
        write!(text, "{VERSION}{} {}\r\n", self.port, self.generation).expect(FITS);
        text.into_bytes()
    }

    /// Reads a whole line, CR LF included.
    ///
    /// # Errors
    /// A [`GreetingError`]; only what [`Answer::line`] writes for a port and a generation from 1 is accepted.
    pub fn parse(line: &[u8]) -> Result<Self, GreetingError> {
        let [port, generation] = fields(line)?;
        let port = number(port).and_then(|port| u16::try_from(port).ok()).ok_or(GreetingError::Port)?;
        let generation = number(generation).ok_or(GreetingError::Generation)?;
        Ok(Self { port, generation })
    }
}

const FITS: &str = "a greeting is within its length by the limits of its fields";

/// Collects a greeting line from pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct LineReader {
    line: Line,
}

impl LineReader {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `input`; the line once it is complete.
    ///
    /// # Errors
    /// [`GreetingError::TooLong`] and [`GreetingError::Trailing`].
    pub fn push(&mut self, input: &[u8]) -> Result<Option<&Line>, GreetingError> {
        for (at, &byte) in input.iter().enumerate() {
            self.line.push(byte).map_err(|_| GreetingError::TooLong)?;
            if byte == b'\n' {
                return if at + 1 == input.len() { Ok(Some(&self.line)) } else { Err(GreetingError::Trailing) };
            }
            if self.line.is_full() {
                return Err(GreetingError::TooLong);
            }
        }
        Ok(None)
    }
}

/// The two fields of a line.
fn fields(line: &[u8]) -> Result<[&str; 2], GreetingError> {
    if line.len() > MAX_GREETING {
        return Err(GreetingError::TooLong);
    }
    let text = str::from_utf8(line).map_err(|_| GreetingError::Malformed)?;
    let text = text.strip_prefix(VERSION).and_then(|text| text.strip_suffix("\r\n")).ok_or(GreetingError::Malformed)?;
    let (first, second) = text.split_once(' ').ok_or(GreetingError::Malformed)?;
    Ok([first, second])
}

/// A decimal number from 1, in its one form.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

/// What both ends put into the handshake before its first message: both lines, then the initiator's and the
/// responder's name, each behind its length as two bytes, most significant first.
///
/// The names come from one's own bag, never from the line. They make the two ends distinct, so that a machine cannot
/// be made to talk to itself.
///
/// ```
/// use commlink_proto::greeting::{Answer, Hello, prologue};
/// let hello = Hello::new("web-database", &[1]).unwrap();
/// let answer = Answer { port: 128, generation: 1 };
/// let bytes = prologue(&hello, &answer, "web", "database").unwrap();
/// assert_eq!(bytes, b"FFS/2 web-database 1\r\nFFS/2 128 1\r\n\0\x03web\0\x08database");
/// ```
///
/// # Errors
/// [`GreetingError::Name`].
pub fn prologue(
    hello: &Hello,
    answer: &Answer,
    initiator: &str,
    responder: &str,
) -> Result<Vec<u8, MAX_PROLOGUE>, GreetingError> {
    const ROOM: &str = "MAX_PROLOGUE is the sum of its parts";
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&hello.line()).expect(ROOM);
    bytes.extend_from_slice(&answer.line()).expect(ROOM);
    for name in [initiator, responder] {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(GreetingError::Name);
        }
        let len = u16::try_from(name.len()).map_err(|_| GreetingError::Name)?;
        bytes.extend_from_slice(&len.to_be_bytes()).expect(ROOM);
        bytes.extend_from_slice(name.as_bytes()).expect(ROOM);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
