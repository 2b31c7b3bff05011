//! Parts that the shapes of every format are made of, and the conversion between a shape and a value of the engine.

use super::error::{DecodeError, MAX_NUMBER, MAX_TEXT_BYTES, MAX_TIME_MS};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

// ---- bounded parts --------------------------------------------------------------------------------------------------

/// A count or a sequence number, at most [`MAX_NUMBER`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Number(pub(super) u64);

/// A time or a duration in ms, at most [`MAX_TIME_MS`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub(super) struct Millis(pub(super) u64);

impl TryFrom<u64> for Number {
    type Error = OutOfBounds;

    fn try_from(value: u64) -> Result<Number, OutOfBounds> {
        within(value, MAX_NUMBER).map(Number)
    }
}

impl TryFrom<u64> for Millis {
    type Error = OutOfBounds;

    fn try_from(value: u64) -> Result<Millis, OutOfBounds> {
        within(value, MAX_TIME_MS).map(Millis)
    }
}

fn within(value: u64, max: u64) -> Result<u64, OutOfBounds> {
    match value <= max {
        true => Ok(value),
        false => Err(OutOfBounds { value, max }),
    }
}

/// A number that is larger than its type allows.
pub(super) struct OutOfBounds {
    value: u64,
    max: u64,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is beyond {}", self.value, self.max)
    }
}

/// A list. Decoding it takes memory as its elements come: a `Vec` of serde reserves up to 1 MiB for a length that is
/// only claimed.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        struct Elements<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

// ---- conversion -----------------------------------------------------------------------------------------------------

/// A shape that an engine's `Value` is written as. It borrows its texts from the value.
pub(super) trait Shape<'a, Value>: IntoValue<'a, Value> {
    fn of(value: &'a Value) -> Self;
}

/// A shape that an engine's `Value` is read from. It borrows its texts from the payload. A shape of an earlier format
/// is read only.
pub(super) trait IntoValue<'a, Value>: Sized {
    /// Returns the value. Its bounds are checked; whether it makes sense is for [`validation`](super::validation) to
    /// say.
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Value, DecodeError>;
}

/// Copies the texts of a payload to memory of their own. Interned, those that are equal are one in memory.
pub(super) struct Texts<'a> {
    interned: Option<HashMap<&'a str, Arc<str>, foldhash::fast::RandomState>>,
}

impl<'a> Texts<'a> {
    pub(super) fn interned() -> Texts<'a> {
        Texts { interned: Some(HashMap::default()) }
    }

    /// Copies each text: a single event hardly repeats one, and looking for it takes a fifth of decoding the event.
    pub(super) fn copied() -> Texts<'a> {
        Texts { interned: None }
    }

    fn get(&mut self, text: &'a str) -> Result<Arc<str>, DecodeError> {
        let Some(interned) = &mut self.interned else { return shared_text(text) };
        if let Some(known) = interned.get(text) {
            return Ok(known.clone());
        }
        let new = shared_text(text)?;
        interned.insert(text, new.clone());
        Ok(new)
    }
}

/// Copies a text, at most [`MAX_TEXT_BYTES`], to memory of its own.
pub(super) fn shared_text(text: &str) -> Result<Arc<str>, DecodeError> {
    match text.len() <= MAX_TEXT_BYTES {
        true => Ok(Arc::from(text)),
        false => Err(DecodeError::TooLarge),
    }
}

impl<'a> Shape<'a, Arc<str>> for &'a str {
    #[inline(always)]
    fn of(value: &'a Arc<str>) -> &'a str {
        value
    }
}

impl<'a> IntoValue<'a, Arc<str>> for &'a str {
    #[inline]
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Arc<str>, DecodeError> {
        texts.get(self)
    }
}

impl Shape<'_, u64> for Number {
    #[inline(always)]
    fn of(value: &u64) -> Number {
        Number(*value)
    }
}

impl IntoValue<'_, u64> for Number {
    #[inline]
    fn into_value(self, _: &mut Texts<'_>) -> Result<u64, DecodeError> {
        Ok(self.0)
    }
}

impl Shape<'_, usize> for Number {
    #[inline(always)]
    fn of(value: &usize) -> Number {
        // A bound beyond all numbers, as `log_max` may be, bounds nothing: it is the same as the largest number.
        Number((*value as u64).min(MAX_NUMBER))
    }
}

impl IntoValue<'_, usize> for Number {
    #[inline]
    fn into_value(self, _: &mut Texts<'_>) -> Result<usize, DecodeError> {
        usize::try_from(self.0).map_err(|_| DecodeError::TooLarge)
    }
}

impl Shape<'_, u64> for Millis {
    #[inline(always)]
    fn of(value: &u64) -> Millis {
        Millis(*value)
    }
}

impl IntoValue<'_, u64> for Millis {
    #[inline]
    fn into_value(self, _: &mut Texts<'_>) -> Result<u64, DecodeError> {
        Ok(self.0)
    }
}

/// Types that are their own shape.
macro_rules! own_shape {
    ($($plain:ty),*) => {
        $(impl Shape<'_, $plain> for $plain {
            #[inline(always)]
            fn of(value: &$plain) -> $plain {
                *value
            }
        }

        impl IntoValue<'_, $plain> for $plain {
            #[inline]
            fn into_value(self, _: &mut Texts<'_>) -> Result<$plain, DecodeError> {
                Ok(self)
            }
        })*
    };
}

own_shape!(bool, u16, u32);

impl<'a, Value, S: Shape<'a, Value>> Shape<'a, Option<Value>> for Option<S> {
    #[inline(always)]
    fn of(value: &'a Option<Value>) -> Option<S> {
        value.as_ref().map(S::of)
    }
}

impl<'a, Value, S: IntoValue<'a, Value>> IntoValue<'a, Option<Value>> for Option<S> {
    #[inline]
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Option<Value>, DecodeError> {
        self.map(|shape| shape.into_value(texts)).transpose()
    }
}

impl<'a, Value, S: Shape<'a, Value>> Shape<'a, Box<Value>> for Box<S> {
    #[inline(always)]
    fn of(value: &'a Box<Value>) -> Box<S> {
        Box::new(S::of(value))
    }
}

impl<'a, Value, S: IntoValue<'a, Value>> IntoValue<'a, Box<Value>> for Box<S> {
    #[inline]
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Box<Value>, DecodeError> {
        (*self).into_value(texts).map(Box::new)
    }
}

impl<'a, Value, S: Shape<'a, Value>> Shape<'a, Vec<Value>> for List<S> {
    fn of(value: &'a Vec<Value>) -> List<S> {
        List(value.iter().map(S::of).collect())
    }
}

impl<'a, Value, S: IntoValue<'a, Value>> IntoValue<'a, Vec<Value>> for List<S> {
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Vec<Value>, DecodeError> {
        self.0.into_iter().map(|shape| shape.into_value(texts)).collect()
    }
}

impl<'a, Value, S: Shape<'a, Value>> Shape<'a, Box<[Value]>> for List<S> {
    fn of(value: &'a Box<[Value]>) -> List<S> {
        List(value.iter().map(S::of).collect())
    }
}

impl<'a, Value, S: IntoValue<'a, Value>> IntoValue<'a, Box<[Value]>> for List<S> {
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Box<[Value]>, DecodeError> {
        let values: Vec<Value> = self.into_value(texts)?;
        Ok(values.into())
    }
}

impl<'a, Value, S: Shape<'a, Value>> Shape<'a, Arc<[Value]>> for List<S> {
    fn of(value: &'a Arc<[Value]>) -> List<S> {
        List(value.iter().map(S::of).collect())
    }
}

impl<'a, Value, S: IntoValue<'a, Value>> IntoValue<'a, Arc<[Value]>> for List<S> {
    fn into_value(self, texts: &mut Texts<'a>) -> Result<Arc<[Value]>, DecodeError> {
        let values: Vec<Value> = self.into_value(texts)?;
        Ok(values.into())
    }
}

impl<'a, K, V, S, T> Shape<'a, BTreeMap<K, V>> for List<(S, T)>
where
    K: Ord,
    S: Shape<'a, K>,
    T: Shape<'a, V>,
{
    fn of(value: &'a BTreeMap<K, V>) -> List<(S, T)> {
        List(value.iter().map(|(name, value)| (S::of(name), T::of(value))).collect())
    }
}

impl<'a, K, V, S, T> IntoValue<'a, BTreeMap<K, V>> for List<(S, T)>
where
    K: Ord,
    S: IntoValue<'a, K>,
    T: IntoValue<'a, V>,
{
    fn into_value(self, texts: &mut Texts<'a>) -> Result<BTreeMap<K, V>, DecodeError> {
        self.0.into_iter().map(|(name, value)| Ok((name.into_value(texts)?, value.into_value(texts)?))).collect()
    }
}

/// Converts a struct field by field. A field that one side has and the other lacks does not compile.
macro_rules! convert_struct {
    ($shape:ty = $engine:ty { $($field:ident),* $(,)? }) => {
        impl<'a> Shape<'a, $engine> for $shape {
            #[inline(always)]
            fn of(value: &'a $engine) -> Self {
                type Engine = $engine;
                let Engine { $($field),* } = value;
                Self { $($field: Shape::of($field)),* }
            }
        }

        read_struct! { $shape = $engine { $($field),* } }
    };
}

/// Reads a struct field by field, those that its format does not have with the given values.
macro_rules! read_struct {
    ($shape:ty = $engine:ty { $($field:ident),* $(,)? } $(with { $($new:ident: $default:expr),* $(,)? })?) => {
        impl<'a> IntoValue<'a, $engine> for $shape {
            #[inline]
            fn into_value(self, texts: &mut Texts<'a>) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                let Self { $($field),* } = self;
                Ok(Engine { $($field: IntoValue::into_value($field, texts)?,)* $($($new: $default,)*)? })
            }
        }
    };
}

/// Converts an enum variant by variant. A variant that one side has and the other lacks does not compile.
macro_rules! convert_enum {
    ($shape:ty = $engine:ty {
        $($variant:ident $({ $($field:ident),* $(,)? })? $(($inner:ident))?),* $(,)?
    }) => {
        impl<'a> Shape<'a, $engine> for $shape {
            #[inline(always)]
            fn of(value: &'a $engine) -> Self {
                type Engine = $engine;
                match value {
                    $(Engine::$variant $({ $($field),* })? $(($inner))? => {
                        Self::$variant $({ $($field: Shape::of($field)),* })? $((Shape::of($inner)))?
                    })*
                }
            }
        }

        read_enum! { $shape = $engine { $($variant $({ $($field),* })? $(($inner))?),* } }
    };
}

/// Reads an enum variant by variant, fields that its format does not have with the given values. The engine may have
/// more variants.
macro_rules! read_enum {
    ($shape:ty = $engine:ty {
        $($variant:ident $({ $($field:ident),* $(,)? } $(with { $($new:ident: $default:expr),* $(,)? })?)?
            $(($inner:ident))?),* $(,)?
    }) => {
        impl<'a> IntoValue<'a, $engine> for $shape {
            #[inline]
            #[allow(unused_variables)] // `texts`, where no variant has any
            fn into_value(self, texts: &mut Texts<'a>) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                Ok(match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        Engine::$variant
                            $({
                                $($field: IntoValue::into_value($field, texts)?,)*
                                $($($new: $default,)*)?
                            })?
                            $((IntoValue::into_value($inner, texts)?))?
                    })*
                })
            }
        }
    };
}

pub(super) use {convert_enum, convert_struct, read_enum, read_struct};
