//! What a repository holds: its tags, or what refers to a manifest. A question to an origin, and one page in answer.
//!
//! Not here: what is in a list; it is upstream's text, and stays it. Nobody keeps a list: who asks again, asks upstream.

use bytes::Bytes;

use super::{DecodeError, Source, bounded, schema};
use crate::Digest;
use crate::limits::{
    LIST_BYTES_MAX, LIST_FILTERS_BYTES_MAX, LIST_QUERY_BYTES_MAX, MEDIA_TYPE_BYTES_MAX,
};

/// Which of a repository's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// The manifests that name this one as their subject.
    Referrers(Digest),
    /// The tags.
    Tags,
}

/// A question about what a repository holds. To an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAsk {
    /// Whose.
    pub source: Source,
    /// Which list.
    pub listed: Listed,
    /// Paging and filters as a URL's query has them, without the question mark; printable ASCII.
    pub query: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAnswer {
    /// As upstream said.
    pub media_type: String,
    /// As upstream sent it.
    pub body: Bytes,
    /// The query that asks for the next page; empty on the last.
    pub next_query: String,
    /// Which filters upstream says it applied; may be empty.
    pub filters_applied: String,
}

impl ListAsk {
    pub(super) fn to_wire(&self) -> schema::ListAsk {
        schema::ListAsk {
            source: Some(self.source.to_wire()),
            subject: match &self.listed {
                Listed::Referrers(subject) => subject.encode(),
                Listed::Tags => Bytes::new(),
            },
            query: self.query.clone(),
        }
    }

    pub(super) fn from_wire(wire: schema::ListAsk) -> Result<Self, DecodeError> {
        Ok(Self {
            source: Source::from_wire(wire.source)?,
            listed: if wire.subject.is_empty() {
                Listed::Tags
            } else {
                Listed::Referrers(Digest::decode(&wire.subject)?)
            },
            query: query(wire.query, "query")?,
        })
    }
}

impl ListAnswer {
    pub(super) fn to_wire(&self) -> schema::ListAnswer {
        schema::ListAnswer {
            media_type: self.media_type.clone(),
            body: self.body.clone(),
            next_query: self.next_query.clone(),
            filters_applied: self.filters_applied.clone(),
        }
    }

    pub(super) fn from_wire(wire: schema::ListAnswer) -> Result<Self, DecodeError> {
        if wire.body.len() > LIST_BYTES_MAX {
            return Err(DecodeError::Field("body"));
        }
        Ok(Self {
            media_type: bounded(wire.media_type, MEDIA_TYPE_BYTES_MAX, "media_type")?,
            body: wire.body,
            next_query: query(wire.next_query, "next_query")?,
            filters_applied: bounded(
                wire.filters_applied,
                LIST_FILTERS_BYTES_MAX,
                "filters_applied",
            )?,
        })
    }
}

/// A query is put into a URL as it is: it may not end it, nor begin another part of it.
fn query(text: String, field: &'static str) -> Result<String, DecodeError> {
    let text = bounded(text, LIST_QUERY_BYTES_MAX, field)?;
    if text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        Ok(text)
    } else {
        Err(DecodeError::Field(field))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Answer, Ask, Secret};

    fn ask(listed: Listed, query: &str) -> Ask {
        Ask::List(ListAsk {
            source: Source {
                registry: "docker.io".into(),
                repository: "library/busybox".into(),
                authorization: Some(Secret::new(b"Bearer canary".to_vec())),
            },
            listed,
            query: query.into(),
        })
    }

    fn page(body: usize, next_query: &str) -> Answer {
        Answer::List(ListAnswer {
            media_type: "application/json".into(),
            body: Bytes::from(vec![b'x'; body]),
            next_query: next_query.into(),
            filters_applied: "artifactType".into(),
        })
    }

    #[test]
    fn lists_are_asked_for_and_answered_over_the_wire() {
        for ask in [
            ask(Listed::Tags, "n=2&last=v1"),
            ask(Listed::Referrers(Digest::Sha256([9; 32])), ""),
            ask(
                Listed::Referrers(Digest::Sha512([7; 64])),
                "artifactType=a%2Fb",
            ),
        ] {
            assert_eq!(Ask::decode(&ask.encode()[4..]).as_ref(), Ok(&ask));
            assert!(!format!("{ask:?}").contains("canary"));
        }
        for answer in [page(0, ""), page(LIST_BYTES_MAX, "n=2&last=v3")] {
            assert_eq!(Answer::decode(&answer.encode()[4..]).as_ref(), Ok(&answer));
        }
    }

    #[test]
    fn what_is_too_long_or_would_leave_the_query_is_refused_whole() {
        let long = "q".repeat(LIST_QUERY_BYTES_MAX + 1);
        for bad in [long.as_str(), "a b", "a#b", "a\r\nb", "é"] {
            assert!(Ask::decode(&ask(Listed::Tags, bad).encode()[4..]).is_err());
            assert!(Answer::decode(&page(1, bad).encode()[4..]).is_err());
        }
        assert!(Answer::decode(&page(LIST_BYTES_MAX + 1, "").encode()[4..]).is_err());
    }

    proptest! {
        #[test]
        fn any_list_comes_back_as_it_was(body in prop::collection::vec(any::<u8>(), 0..300), query in "[!-\"$-~]{0,80}") {
            let answer = Answer::List(ListAnswer {
                media_type: String::new(),
                body: body.into(),
                next_query: query,
                filters_applied: String::new(),
            });
            prop_assert_eq!(Answer::decode(&answer.encode()[4..]), Ok(answer));
        }
    }
}
