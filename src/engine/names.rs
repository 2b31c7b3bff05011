//! Enums whose variants have a name on the wire: one list each of variants and names.

/// Defines an enum with its names: `ALL`, `name`, `parse` and `Serialize` follow from the list.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $enum:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum { $($(#[$variant_meta])* $variant),* }

        impl $enum {
            /// Every variant, in order.
            pub const ALL: [$enum; [$($name),*].len()] = [$($enum::$variant),*];

            /// Returns the name on the wire.
            pub fn name(self) -> &'static str {
                match self { $($enum::$variant => $name),* }
            }

            /// Parses a name in any case, as Redis parses keywords.
            pub fn parse(text: &str) -> Option<$enum> {
                $enum::ALL.into_iter().find(|variant| variant.name().eq_ignore_ascii_case(text))
            }
        }

        impl serde::Serialize for $enum {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}
pub(crate) use named_enum;
