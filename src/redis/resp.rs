//! Writes a shape as a RESP reply.
//!
//! Structs and maps become maps in RESP3 and flat arrays in RESP2, which the server does; sequences and tuples become
//! arrays, strings and bytes bulk strings, numbers and booleans integers, and None null. An integer is signed 64-bit: a
//! larger one becomes the largest. The format is not human readable in serde's sense, by which shapes of `view` know
//! that a JSON text is a string here.
//!
//! The length of an array precedes its elements, so a sequence or map of unknown length is an error.

use serde::{ser, Serialize};
use std::fmt::Display;

/// Receives the parts of a reply in order. `array` and `map` are followed by that many elements, or pairs.
pub trait ReplySink {
    fn null(&mut self);
    fn integer(&mut self, number: i64);
    fn bulk_string(&mut self, bytes: &[u8]);
    fn array(&mut self, length: usize);
    fn map(&mut self, length: usize);
}

/// A shape that has no RESP form. It is an error of the program: no record leads to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a sequence or map of unknown length")]
    UnknownLength,
    #[error("{0}")]
    Custom(String),
}

impl ser::Error for Error {
    fn custom<T: Display>(message: T) -> Error {
        Error::Custom(message.to_string())
    }
}

/// Writes `value` into `sink`. After an error the reply is incomplete.
pub fn write<T: Serialize + ?Sized>(sink: &mut impl ReplySink, value: &T) -> Result<(), Error> {
    value.serialize(&mut Resp { sink })
}

/// The serializer. Writing of elements needs no state, so it is its own compound serializer too.
struct Resp<'s, S> {
    sink: &'s mut S,
}

impl<S: ReplySink> Resp<'_, S> {
    /// Begins `{variant: …}`, the form of an enum variant with content.
    fn variant(&mut self, variant: &str) {
        self.sink.map(1);
        self.sink.bulk_string(variant.as_bytes());
    }
}

impl<S: ReplySink> ser::Serializer for &mut Resp<'_, S> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, flag: bool) -> Result<(), Error> {
        self.serialize_i64(i64::from(flag))
    }

    fn serialize_i8(self, number: i8) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_i16(self, number: i16) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_i32(self, number: i32) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_i64(self, number: i64) -> Result<(), Error> {
        self.sink.integer(number);
        Ok(())
    }

    fn serialize_u8(self, number: u8) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_u16(self, number: u16) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_u32(self, number: u32) -> Result<(), Error> {
        self.serialize_i64(i64::from(number))
    }

    fn serialize_u64(self, number: u64) -> Result<(), Error> {
        self.serialize_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// RESP2 has no type for it; its clients expect a string.
    fn serialize_f32(self, number: f32) -> Result<(), Error> {
        self.collect_str(&number)
    }

    fn serialize_f64(self, number: f64) -> Result<(), Error> {
        self.collect_str(&number)
    }

    fn serialize_char(self, character: char) -> Result<(), Error> {
        self.serialize_str(character.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        self.sink.bulk_string(bytes);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.sink.null();
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant);
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Error> {
        self.sink.array(length.ok_or(Error::UnknownLength)?);
        Ok(self)
    }

    fn serialize_tuple(self, length: usize) -> Result<Self, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Self, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self, Error> {
        self.variant(variant);
        self.serialize_seq(Some(length))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self, Error> {
        self.sink.map(length.ok_or(Error::UnknownLength)?);
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Self, Error> {
        self.serialize_map(Some(length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self, Error> {
        self.variant(variant);
        self.serialize_map(Some(length))
    }
}

/// Implements a compound serializer whose elements follow one another.
macro_rules! elements {
    ($($of:ident: $element:ident),+) => {
        $(impl<S: ReplySink> ser::$of for &mut Resp<'_, S> {
            type Ok = ();
            type Error = Error;

            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        })+
    };
}

elements!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

/// Implements a compound serializer whose values follow their names.
macro_rules! named_fields {
    ($($of:ident),+) => {
        $(impl<S: ReplySink> ser::$of for &mut Resp<'_, S> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.sink.bulk_string(name.as_bytes());
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        })+
    };
}

named_fields!(SerializeStruct, SerializeStructVariant);

impl<S: ReplySink> ser::SerializeMap for &mut Resp<'_, S> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::RawJson;
    use serde::Serializer;
    use std::collections::BTreeMap;

    /// Records a reply as text: `%2` a map of two, `*2` an array of two.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl ReplySink for Recorder {
        fn null(&mut self) {
            self.0.push("null".to_string());
        }

        fn integer(&mut self, number: i64) {
            self.0.push(number.to_string());
        }

        fn bulk_string(&mut self, bytes: &[u8]) {
            self.0.push(format!("{:?}", String::from_utf8_lossy(bytes)));
        }

        fn array(&mut self, length: usize) {
            self.0.push(format!("*{length}"));
        }

        fn map(&mut self, length: usize) {
            self.0.push(format!("%{length}"));
        }
    }

    fn written<T: Serialize>(value: &T) -> Result<String, Error> {
        let mut recorder = Recorder::default();
        write(&mut recorder, value)?;
        Ok(recorder.0.join(" "))
    }

    #[track_caller]
    fn assert_written<T: Serialize>(value: &T, expected: &str) {
        assert_eq!(written(value).as_deref(), Ok(expected));
    }

    #[derive(Serialize)]
    struct Shape<'a> {
        name: &'a str,
        flag: bool,
        none: Option<i64>,
        some: Option<i64>,
        list: &'a [&'a str],
        pair: (u64, Empty),
    }

    #[derive(Serialize)]
    struct Empty {}

    #[derive(Serialize)]
    enum Variants {
        Unit,
        Newtype(i8),
        Tuple(u8, u16),
        Struct { a: i32 },
    }

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Newtype(u32);

    #[test]
    fn a_struct_is_a_map_of_its_fields_in_order() {
        let shape =
            Shape { name: "a", flag: true, none: None, some: Some(-1), list: &["x", ""], pair: (u64::MAX, Empty {}) };
        assert_written(
            &shape,
            r#"%6 "name" "a" "flag" 1 "none" null "some" -1 "list" *2 "x" "" "pair" *2 9223372036854775807 %0"#,
        );
    }

    #[test]
    fn scalars_have_the_nearest_type_of_the_protocol() {
        assert_written(&(false, 1u8, -2i16, 3u32), "*4 0 1 -2 3");
        assert_written(&('é', 1.5f64, 0.25f32), r#"*3 "é" "1.5" "0.25""#);
        assert_written(&((), Unit, Newtype(7)), "*3 null null 7");
    }

    #[test]
    fn enums_are_their_name_or_a_map_from_it() {
        let all = [Variants::Unit, Variants::Newtype(1), Variants::Tuple(2, 3), Variants::Struct { a: 4 }];
        assert_written(&all, r#"*4 "Unit" %1 "Newtype" 1 %1 "Tuple" *2 2 3 %1 "Struct" %1 "a" 4"#);
    }

    #[test]
    fn maps_are_maps() {
        assert_written(&BTreeMap::from([("a", 1), ("b", 2)]), r#"%2 "a" 1 "b" 2"#);
    }

    #[test]
    fn a_json_text_is_a_string() {
        assert_written(&RawJson(r#" {"a" : 1} "#), r#"" {\"a\" : 1} ""#);
        assert_written(&BTreeMap::from([("a", RawJson("[1]"))]), r#"%1 "a" "[1]""#);
    }

    #[test]
    fn an_unknown_length_is_an_error() {
        struct Odd;
        impl Serialize for Odd {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq([1, 2, 3].iter().filter(|number| **number != 2))
            }
        }
        assert_eq!(written(&Odd), Err(Error::UnknownLength));
    }
}
