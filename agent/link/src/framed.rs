//! Messages on QUIC streams: each a frame, bounded before it is read.
//!
//! Not here: deadlines, which belong to whoever waits, and what messages mean. Reading is cancel safe only between
//! messages: a reader that is dropped halfway through a frame must not be used again, and is not.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use shoal_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, MANIFEST_FRAME_BYTES_MAX};
use shoal_proto::wire::{
    Answer, Ask, DecodeError, FromTracker, Hello, PeerMessage, ToTracker, Welcome,
};
use thiserror::Error;

/// What travels in frames: a typed message, and the longest frame in which it is taken.
pub trait Framed: Sized {
    /// In bytes, without the length in front.
    const FRAME_MAX: usize;
    /// The frame, with the length in front.
    fn frame(&self) -> Bytes;
    /// Reads a frame's body.
    fn read(body: &[u8]) -> Result<Self, DecodeError>;
}

macro_rules! framed {
    ($($message:ty: $max:expr),* $(,)?) => {$(
        impl Framed for $message {
            const FRAME_MAX: usize = $max;

            fn frame(&self) -> Bytes {
                self.encode()
            }

            fn read(body: &[u8]) -> Result<Self, DecodeError> {
                Self::decode(body)
            }
        }
    )*};
}

framed! {
    Answer: MANIFEST_FRAME_BYTES_MAX,
    Ask: FRAME_BYTES_MAX,
    FromTracker: FRAME_BYTES_MAX,
    Hello: HELLO_BYTES_MAX,
    PeerMessage: FRAME_BYTES_MAX,
    ToTracker: FRAME_BYTES_MAX,
    Welcome: HELLO_BYTES_MAX,
}

/// Why a message did not pass.
#[derive(Debug, Error)]
pub enum FrameError {
    /// What came is not a message. The other side is to blame.
    #[error("what the peer said cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The stream was at its end where a message was due.
    #[error("the stream ended early")]
    Ended,
    /// The stream or its link broke. Nobody is to blame.
    #[error("reading failed: {0}")]
    Read(#[from] quinn::ReadError),
    /// The stream or its link broke. Nobody is to blame.
    #[error("writing failed: {0}")]
    Write(#[from] quinn::WriteError),
}

/// The half of a stream that we write.
#[derive(Debug)]
pub struct SendHalf(pub(crate) quinn::SendStream);

impl SendHalf {
    /// Sends a message.
    pub async fn write_message<M: Framed>(&mut self, message: &M) -> Result<(), FrameError> {
        Ok(self.0.write_chunk(message.frame()).await?)
    }

    /// Sends bytes that are no message: those of a piece. They are not copied.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        Ok(self.0.write_chunk(bytes).await?)
    }

    /// Nothing more will be sent. On a stream that is gone already, nothing happens.
    pub fn finish(&mut self) {
        let _ = self.0.finish();
    }

    /// Nothing more will be sent, and what was sent does not count: the other side reads an error, not an end. A half that is
    /// dropped without this looks finished to it.
    pub fn abort(&mut self) {
        let _ = self.0.reset(quinn::VarInt::from_u32(0));
    }

    /// Waits until the other side has taken everything, or gave the stream up (`false`).
    pub async fn taken(&mut self) -> bool {
        matches!(self.0.stopped().await, Ok(None))
    }
}

/// The half of a stream that we read. Dropping it tells the other side to stop.
#[derive(Debug)]
pub struct RecvHalf(pub(crate) quinn::RecvStream);

impl RecvHalf {
    /// The next message, where one is due.
    pub async fn read_message<M: Framed>(&mut self) -> Result<M, FrameError> {
        self.next_message().await?.ok_or(FrameError::Ended)
    }

    /// The next message, or `None` at the end of the stream.
    pub async fn next_message<M: Framed>(&mut self) -> Result<Option<M>, FrameError> {
        let mut head = [0; 4];
        match self.0.read_exact(&mut head).await {
            Ok(()) => {}
            Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(short(error)),
        }
        let length = u32::from_be_bytes(head) as usize;
        if length > M::FRAME_MAX {
            return Err(DecodeError::TooLong {
                length,
                max: M::FRAME_MAX,
            }
            .into());
        }
        // Grows as bytes come, so that memory is taken by what was sent and not by what was claimed.
        let mut body = BytesMut::new();
        while body.len() < length {
            let rest = length - body.len();
            let more = self.0.read_chunk(rest, true).await?;
            body.extend_from_slice(&more.ok_or(FrameError::Ended)?.bytes);
        }
        Ok(Some(M::read(&body)?))
    }

    /// Up to `max` bytes that are no message, as they come; `None` at the end. They are not copied.
    pub async fn read_bytes(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        Ok(self.0.read_chunk(max, true).await?.map(|chunk| chunk.bytes))
    }

    /// The next bytes that are no message, in as many parts as have come, at most as many as there is room for: how many
    /// parts were put there, or `None` at the end. A part is what one datagram carried, not copied; taking many of them at
    /// once costs less than one after the other.
    ///
    /// Cancel safe: a dropped call has consumed nothing.
    pub async fn read_parts(&mut self, parts: &mut [Bytes]) -> Result<Option<usize>, FrameError> {
        Ok(self.0.read_chunks(parts).await?)
    }
}

fn short(error: quinn::ReadExactError) -> FrameError {
    match error {
        quinn::ReadExactError::FinishedEarly(_) => FrameError::Ended,
        quinn::ReadExactError::ReadError(error) => FrameError::Read(error),
    }
}

/// Our half of the control stream.
#[derive(Debug)]
pub struct ControlSender(pub(crate) SendHalf);

impl ControlSender {
    /// Says something.
    pub async fn send<M: Framed>(&mut self, message: &M) -> Result<(), FrameError> {
        self.0.write_message(message).await
    }
}

/// The other side's half of the control stream, on which messages of one kind come.
#[derive(Debug)]
pub struct ControlReceiver<M> {
    half: RecvHalf,
    kind: PhantomData<fn() -> M>,
}

impl<M: Framed> ControlReceiver<M> {
    pub(crate) fn new(half: RecvHalf) -> Self {
        Self {
            half,
            kind: PhantomData,
        }
    }

    /// The same stream, read as messages of another kind: which kind follows from the roles at both ends.
    pub fn reads<N: Framed>(self) -> ControlReceiver<N> {
        ControlReceiver::new(self.half)
    }

    /// What is said next; `None` when the other side will say no more. A message of a kind that we do not know is passed
    /// over: peers of the next release may have more words, and must not lose their links with us for it.
    pub async fn recv(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            match self.half.next_message().await {
                Err(FrameError::Decode(DecodeError::Kind)) => {}
                other => return other,
            }
        }
    }
}
