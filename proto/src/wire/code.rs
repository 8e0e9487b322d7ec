//! Why a request is refused and why a link is closed: whose fault it is, and whether to come back.
//!
//! Not here: what the asker then does, which is the core's. Numbers are wire format and are never reused.

use super::schema;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's: it is how a busy or changing cluster works.
    Nobody,
    /// The side that says so.
    Sender,
    /// The side that is told.
    Receiver,
    /// The registry outside.
    Upstream,
}

/// Why a request is answered with no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// No slot is free.
    Busy,
    /// The origin has given the piece away; the holders are named.
    Injected,
    /// The piece is not held here.
    NotHeld,
    /// Upstream has no such thing.
    NotFound,
    /// Not permitted, by policy or by upstream.
    Denied,
    /// Upstream, or something of the refuser's, is broken.
    Unavailable,
    /// The refuser shuts down.
    Leaving,
    /// The question makes no sense.
    BadRequest,
}

impl RefusalCode {
    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        match self {
            Self::Busy | Self::Injected | Self::NotHeld | Self::Leaving => Blame::Nobody,
            Self::NotFound | Self::Denied => Blame::Upstream,
            Self::Unavailable => Blame::Sender,
            Self::BadRequest => Blame::Receiver,
        }
    }

    /// May the same question to the same peer be answered otherwise later?
    pub const fn retry(self) -> bool {
        matches!(self, Self::Busy | Self::Injected | Self::Unavailable)
    }

    pub(super) fn to_wire(self) -> i32 {
        let wire = match self {
            Self::Busy => schema::RefusalCode::Busy,
            Self::Injected => schema::RefusalCode::Injected,
            Self::NotHeld => schema::RefusalCode::NotHeld,
            Self::NotFound => schema::RefusalCode::NotFound,
            Self::Denied => schema::RefusalCode::Denied,
            Self::Unavailable => schema::RefusalCode::Unavailable,
            Self::Leaving => schema::RefusalCode::Leaving,
            Self::BadRequest => schema::RefusalCode::BadRequest,
        };
        wire.into()
    }

    /// A code of a later version counts as [`Unavailable`](Self::Unavailable).
    pub(super) fn from_wire(wire: i32) -> Self {
        match schema::RefusalCode::try_from(wire) {
            Ok(schema::RefusalCode::Busy) => Self::Busy,
            Ok(schema::RefusalCode::Injected) => Self::Injected,
            Ok(schema::RefusalCode::NotHeld) => Self::NotHeld,
            Ok(schema::RefusalCode::NotFound) => Self::NotFound,
            Ok(schema::RefusalCode::Denied) => Self::Denied,
            Ok(schema::RefusalCode::Leaving) => Self::Leaving,
            Ok(schema::RefusalCode::BadRequest) => Self::BadRequest,
            Ok(schema::RefusalCode::Unavailable | schema::RefusalCode::Unspecified) | Err(_) => {
                Self::Unavailable
            }
        }
    }
}

/// Why a link is closed; travels as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// Not needed any more.
    Done,
    /// The closing side shuts down.
    Leaving,
    /// The other side is banned.
    Banned,
    /// The other side said something it may not say.
    Violation,
    /// The other side is not a member of this cluster, or not in the role it was wanted for.
    NotAMember,
    /// The other side's membership has expired.
    Expired,
    /// No room for another link.
    TooManyLinks,
    /// There is another link with the same peer.
    Duplicate,
    /// The handshake took too long.
    TooSlow,
}

impl CloseCode {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Leaving,
        Self::Banned,
        Self::Violation,
        Self::NotAMember,
        Self::Expired,
        Self::TooManyLinks,
        Self::Duplicate,
        Self::TooSlow,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Leaving => 1,
            Self::Banned => 2,
            Self::Violation => 3,
            Self::NotAMember => 4,
            Self::Expired => 5,
            Self::TooManyLinks => 6,
            Self::Duplicate => 7,
            Self::TooSlow => 8,
        }
    }

    /// What a number means, if this version knows it.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| u64::from(code.number()) == number)
    }

    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        match self {
            Self::Done | Self::Leaving | Self::TooManyLinks | Self::Duplicate => Blame::Nobody,
            Self::Banned | Self::Violation | Self::NotAMember | Self::Expired | Self::TooSlow => {
                Blame::Receiver
            }
        }
    }

    /// May the side that was closed dial again, after a while?
    pub const fn retry(self) -> bool {
        !matches!(self, Self::Banned | Self::NotAMember)
    }

    /// For logs and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Leaving => "leaving",
            Self::Banned => "banned",
            Self::Violation => "violation",
            Self::NotAMember => "not_a_member",
            Self::Expired => "expired",
            Self::TooManyLinks => "too_many_links",
            Self::Duplicate => "duplicate",
            Self::TooSlow => "too_slow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_strange_ones_are_harmless() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number().into()), Some(code));
        }
        assert_eq!(CloseCode::from_number(999), None);
        for number in 1..=8 {
            assert_eq!(RefusalCode::from_wire(number).to_wire(), number);
        }
        assert_eq!(RefusalCode::from_wire(77), RefusalCode::Unavailable);
    }
}
