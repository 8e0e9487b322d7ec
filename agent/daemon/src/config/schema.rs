//! What keys a configuration type has, learnt from its own `Deserialize` and from nothing else.
//!
//! A derived `Deserialize` tells its deserializer the names of its fields. The probe here is a deserializer that
//! walks to one place in the type, notes what is asked for there, and stops with an error; no value is ever
//! made. So the keys, their environment variables and the did-you-mean hints can never drift from the type.
//!
//! Limit: fields behind `#[serde(flatten)]` are not seen. No configuration of ours uses it.

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, Visitor};
use serde::de::{Deserializer, MapAccess, SeqAccess};

/// The outline of a configuration type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A table with known keys.
    Table(Vec<(&'static str, Self)>),
    /// A list of values of one shape.
    List(Box<Self>),
    /// A table whose keys are the operator's choice.
    Map,
    /// `true` or `false`.
    Flag,
    /// An integer or a float.
    Number,
    /// Anything that is written as a string.
    Text,
}

impl Shape {
    /// The outline of `T`.
    pub(crate) fn of<T: DeserializeOwned>() -> Self {
        outline::<T>(&mut Vec::new())
    }

    /// Every key with its path, sections first to last; a list or a map is one key.
    pub(crate) fn keys(&self) -> Vec<(Vec<&'static str>, &Self)> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect<'a>(
        &'a self,
        path: &mut Vec<&'static str>,
        found: &mut Vec<(Vec<&'static str>, &'a Self)>,
    ) {
        match self {
            Self::Table(fields) => {
                for (name, shape) in fields {
                    path.push(name);
                    shape.collect(path, found);
                    path.pop();
                }
            }
            leaf => found.push((path.clone(), leaf)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Field(&'static str),
    Item,
}

/// What the type asked for at the end of the path.
enum Seen {
    Struct(&'static [&'static str]),
    Seq,
    Map,
    Flag,
    Number,
    Text,
}

fn outline<T: DeserializeOwned>(path: &mut Vec<Step>) -> Shape {
    let mut seen = None;
    // Always an error: the probe never yields a value. What it saw is in `seen`.
    let _ = T::deserialize(Probe {
        path,
        seen: &mut seen,
    });
    match seen {
        Some(Seen::Struct(names)) => {
            let mut fields = Vec::with_capacity(names.len());
            for &name in names {
                path.push(Step::Field(name));
                fields.push((name, outline::<T>(path)));
                path.pop();
            }
            Shape::Table(fields)
        }
        Some(Seen::Seq) => {
            path.push(Step::Item);
            let item = outline::<T>(path);
            path.pop();
            Shape::List(Box::new(item))
        }
        Some(Seen::Map) => Shape::Map,
        Some(Seen::Flag) => Shape::Flag,
        Some(Seen::Number) => Shape::Number,
        Some(Seen::Text) | None => Shape::Text,
    }
}

struct Probe<'a> {
    path: &'a [Step],
    seen: &'a mut Option<Seen>,
}

impl Probe<'_> {
    fn note<V>(self, seen: Seen) -> Result<V, Error> {
        if self.path.is_empty() {
            *self.seen = Some(seen);
        }
        Err(Error::custom("probed"))
    }
}

macro_rules! note {
    ($seen:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.note(Seen::$seen)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    note!(Flag: deserialize_bool);
    note!(Number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    note!(Number: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    note!(Number: deserialize_f32 deserialize_f64);
    note!(Text: deserialize_any deserialize_char deserialize_str deserialize_string deserialize_bytes);
    note!(Text: deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any);
    note!(Map: deserialize_map);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Error> {
        self.note(Seen::Text)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.note(Seen::Text)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.path.split_first() {
            Some((Step::Item, rest)) => visitor.visit_seq(One {
                key: "",
                rest,
                seen: self.seen,
            }),
            _ => self.note(Seen::Seq),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.path.split_first() {
            Some((Step::Field(key), rest)) => visitor.visit_map(One {
                key,
                rest,
                seen: self.seen,
            }),
            _ => self.note(Seen::Struct(fields)),
        }
    }
}

/// A table or a list with the one entry on the path.
struct One<'a> {
    key: &'static str,
    rest: &'a [Step],
    seen: &'a mut Option<Seen>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let key: StrDeserializer<'_, Error> = self.key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Probe {
            path: self.rest,
            seen: self.seen,
        })
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.next_value_seed(seed).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Span};
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[expect(dead_code, reason = "read by the probe alone")]
    struct Whole {
        data_dir: PathBuf,
        store: Store,
        upstream: Vec<Upstream>,
        aliases: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by the probe alone")]
    struct Store {
        quota: Option<ByteSize>,
        grace: Span,
        listen: SocketAddr,
        on: bool,
        ratio: f64,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "read by the probe alone")]
    struct Upstream {
        registry: String,
        plain_http: bool,
    }

    #[test]
    fn every_field_of_a_type_is_found_at_its_place() {
        let store = vec![
            ("quota", Shape::Text),
            ("grace", Shape::Text),
            ("listen", Shape::Text),
            ("on", Shape::Flag),
            ("ratio", Shape::Number),
        ];
        let upstream = vec![("registry", Shape::Text), ("plain_http", Shape::Flag)];
        let whole = Shape::Table(vec![
            ("data-dir", Shape::Text),
            ("store", Shape::Table(store)),
            ("upstream", Shape::List(Box::new(Shape::Table(upstream)))),
            ("aliases", Shape::Map),
        ]);
        assert_eq!(Shape::of::<Whole>(), whole);
        let keys: Vec<String> = whole
            .keys()
            .iter()
            .map(|(path, _)| path.join("."))
            .collect();
        assert_eq!(
            keys,
            [
                "data-dir",
                "store.quota",
                "store.grace",
                "store.listen",
                "store.on",
                "store.ratio",
                "upstream",
                "aliases"
            ]
        );
    }
}
