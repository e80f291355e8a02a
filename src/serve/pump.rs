//! Moves one body from one side to the other, re-framing it on the way.
//!
//! Holds no bytes: they stay in the source's buffer until the sink takes them, so a slow sink
//! slows its source. Deadlines are the caller's.

use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::LARGE;
use super::compose::write_field;
use super::side::{Sink, Source};
use crate::filters::headers::Edits;
use crate::proto::http1::{
    BodyFraming, ChunkError, ChunkStep, ChunkedDecoder, LAST_CHUNK, TrailerLimits, trailer_fields, write_chunk_header,
};

/// How a body ends on the side it comes from.
pub enum Decoder {
    None,
    /// Bytes still to come.
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
    /// The source knows: HTTP/2 ends a body with a frame, and has checked it against Content-Length.
    Frames,
}

/// How a body is delimited on the side it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// Content-Length was announced, or the connection's end is the end.
    Identity,
    Chunked,
    /// The sink is told where the end is.
    Frames,
}

/// Trailers longer than this break the message.
pub const TRAILERS: TrailerLimits = TrailerLimits { bytes: 16 << 10, fields: 100 };

impl Decoder {
    /// For HTTP/1.
    pub fn of(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None => Self::None,
            BodyFraming::Length(length) => Self::Length(length),
            BodyFraming::Chunked => Self::Chunked(ChunkedDecoder::new(TRAILERS)),
            BodyFraming::UntilClose => Self::UntilClose,
        }
    }
}

impl Encoder {
    /// For HTTP/1.
    pub fn of(framing: BodyFraming) -> Self {
        if framing == BodyFraming::Chunked { Self::Chunked } else { Self::Identity }
    }
}

#[derive(Debug)]
#[expect(dead_code, reason = "causes are read through Debug, in the log")]
pub enum PumpError {
    /// Reading failed.
    Source(io::Error),
    /// The source ended before its body did.
    Short,
    /// The chunked coding is broken.
    Chunk(ChunkError),
    /// More than the limit.
    TooLarge,
    /// Writing failed.
    Sink(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Moving,
    Flushing,
    Done,
}

pub struct Pump<'a> {
    decoder: Decoder,
    encoder: Encoder,
    /// Body bytes at the front of the source's buffer that the sink has not taken yet.
    piece: usize,
    state: State,
    /// Body bytes moved so far.
    pub moved: u64,
    /// Nothing was taken from the source's buffer yet, so that another pump can begin where this did.
    pub is_untouched: bool,
    limit: u64,
    /// What holds for the fields of the head holds for trailers: some programs make one of the two.
    edits: &'a Edits,
    /// The source has nothing for us.
    pub waits_for_source: bool,
}

impl<'a> Pump<'a> {
    pub fn new(decoder: Decoder, encoder: Encoder, limit: u64, edits: &'a Edits) -> Self {
        Self { decoder, encoder, piece: 0, state: State::Moving, moved: 0, is_untouched: true, limit, edits, waits_for_source: false }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the whole body was taken from the source, even if not all of it is sent.
    pub fn is_taken(&self) -> bool {
        self.state != State::Moving
    }

    /// Moves what can be moved. Ready when the body has ended and everything is sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Source, to: &mut impl Sink) -> Poll<Result<(), PumpError>> {
        self.waits_for_source = false;
        while self.state == State::Moving {
            if self.piece > 0 {
                let data = &from.input()[..self.piece];
                let taken = ready!(to.poll_send(cx, data)).map_err(PumpError::Sink)?;
                from.consume(taken);
                self.is_untouched = false;
                self.piece -= taken;
                self.moved += taken as u64;
                if self.piece == 0 && self.encoder == Encoder::Chunked {
                    to.output().extend_from_slice(b"\r\n");
                }
                continue;
            }
            match self.next_step(from)? {
                Step::Piece(0) => {}
                Step::Piece(length) => {
                    if self.moved + length as u64 > self.limit {
                        return Poll::Ready(Err(PumpError::TooLarge));
                    }
                    self.piece = length;
                    if self.encoder == Encoder::Chunked {
                        write_chunk_header(length, to.output());
                    }
                }
                Step::More => ready!(self.poll_more(cx, from, to))?,
                Step::End(trailers) => {
                    let section = &from.input()[trailers.start..trailers.end];
                    match self.encoder {
                        Encoder::Identity => {}
                        Encoder::Chunked => {
                            let output = to.output();
                            output.extend_from_slice(LAST_CHUNK);
                            self.write_trailers(section, output);
                            output.extend_from_slice(b"\r\n");
                        }
                        Encoder::Frames => {
                            let mut lines = Vec::new();
                            self.write_trailers(section, &mut lines);
                            to.end(&lines);
                        }
                    }
                    from.consume(trailers.consumed);
                    self.is_untouched &= trailers.consumed == 0;
                    self.state = State::Flushing;
                }
            }
        }
        if self.state == State::Flushing {
            ready!(to.poll_flush(cx)).map_err(PumpError::Sink)?;
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn write_trailers(&self, section: &[u8], out: &mut Vec<u8>) {
        for field in trailer_fields(section) {
            let name = field.name.of(section);
            if !self.edits.drops(field.known, name) {
                write_field(name, field.value.of(section), out);
            }
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, from: &mut impl Source, to: &mut impl Sink) -> Poll<Result<(), PumpError>> {
        // A stream is sent in frames, and there may be a hundred of them for one client that takes nothing.
        if self.encoder != Encoder::Frames {
            from.widen_if_full();
        }
        match from.poll_fill(cx, LARGE) {
            Poll::Ready(Ok(0)) => match self.decoder {
                Decoder::UntilClose => {
                    self.decoder = Decoder::None;
                    Poll::Ready(Ok(()))
                }
                Decoder::Frames => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(PumpError::Short)),
            },
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Source(error))),
            Poll::Pending => {
                self.waits_for_source = true;
                // What has come so far goes out now: whoever waits for it may be why no more comes.
                match to.poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Sink(error))),
                    _ => Poll::Pending,
                }
            }
        }
    }

    fn next_step(&mut self, from: &mut impl Source) -> Result<Step, PumpError> {
        let available = from.input().len();
        Ok(match &mut self.decoder {
            Decoder::None | Decoder::Length(0) => Step::End(Trailers::default()),
            Decoder::Frames if from.is_ended() => Step::End(Trailers { consumed: available, start: 0, end: available }),
            Decoder::Length(_) | Decoder::UntilClose | Decoder::Frames if available == 0 => Step::More,
            Decoder::Length(left) => {
                let length = available.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Step::Piece(length)
            }
            Decoder::UntilClose | Decoder::Frames => Step::Piece(available),
            Decoder::Chunked(decoder) => match decoder.next(from.input()).map_err(PumpError::Chunk)? {
                ChunkStep::Data { consumed, data } => {
                    from.consume(consumed);
                    self.is_untouched = false;
                    Step::Piece(data)
                }
                ChunkStep::More { consumed } => {
                    from.consume(consumed);
                    self.is_untouched &= consumed == 0;
                    Step::More
                }
                ChunkStep::End { consumed, trailers } => Step::End(Trailers { consumed, start: trailers.start, end: trailers.end }),
            },
        })
    }
}

enum Step {
    /// So many body bytes are at the front of the buffer.
    Piece(usize),
    More,
    End(Trailers),
}

/// Where in the source's buffer the trailers are, and how much of it the body's end takes.
#[derive(Default)]
struct Trailers {
    consumed: usize,
    start: usize,
    end: usize,
}
