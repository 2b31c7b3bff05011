//! The configuration (rule 6): `deploy.*`, by CONFIG SET, the configuration file, or `loadmodule … name value`.
//!
//! Each configuration is one static and one entry of [`CONFIGS`]: registration, module arguments and the line in the
//! log follow from it.

use crate::engine::Limits;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

/// One configuration: its name without the `deploy.` that the server adds, and its current value.
pub struct Config {
    pub name: &'static CStr,
    pub kind: ConfigKind,
    /// The number, or the number of the choice.
    value: AtomicI64,
    /// The text, once one was set.
    text: RwLock<Option<String>>,
}

/// The type of a configuration, with its default and range.
pub enum ConfigKind {
    /// `is_memory`: `1mb` may be written for it.
    Number {
        default: i64,
        min: i64,
        max: i64,
        is_memory: bool,
    },
    Text {
        default: &'static str,
        check: fn(&str) -> Result<(), &'static str>,
    },
    /// The first choice is the default.
    Choice(&'static [&'static CStr]),
}

/// A value that a module argument gives a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigValue {
    Number(i64),
    Text(String),
}

/// Every configuration, in the order of the line in the log.
pub static CONFIGS: [&Config; 9] = [
    &HISTORY_MAX,
    &EVENTS_MAX,
    &MANIFEST_MAX_BYTES,
    &AGENTS_MAX,
    &VERSIONS_ALIVE_MAX,
    &TICK_BUDGET_US,
    &ENCODE_IDLE_MS,
    &PUBLISH,
    &CHANNEL_PREFIX,
];

/// Kept versions. A large reply copies the record, and each version is a word in it.
static HISTORY_MAX: Config = Config::number(c"history-max", 50, 1, 10_000);
/// Kept events.
static EVENTS_MAX: Config = Config::number(c"events-max", 100, 1, 100_000);
/// The longest manifest, in bytes; at most what the codec reads back as one text.
static MANIFEST_MAX_BYTES: Config = Config::memory(c"manifest-max-bytes", 1 << 20, 1024, 4 << 20);
/// Agents of one version.
static AGENTS_MAX: Config = Config::number(c"agents-max", 10_000, 1, 100_000);
/// Versions whose instances drain or are on standby.
static VERSIONS_ALIVE_MAX: Config = Config::number(c"versions-alive-max", 8, 1, 1_000);
/// Time in µs that the timer may use before clients get their turn.
static TICK_BUDGET_US: Config = Config::number(c"tick-budget-us", 1_000, 100, 1_000_000);
/// Idle time in ms after which a finished record is kept encoded. 0 disables.
static ENCODE_IDLE_MS: Config = Config::number(c"encode-idle-ms", 10_000, 0, 86_400_000);
/// The kind of publishing; see [`Publish`].
static PUBLISH: Config = Config::choice(c"publish", &[c"classic", c"sharded"]);
/// The prefix of the events channel.
static CHANNEL_PREFIX: Config = Config::text(c"channel-prefix", "deploy:events:", check_channel_prefix);

const CHANNEL_PREFIX_MAX_BYTES: usize = 256;

/// The kind of publishing (rule 8 "Channel").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    Classic,
    /// Sharded pub/sub, on a channel in the key's slot.
    Sharded,
}

/// A brace in the prefix would determine the hash slot of a sharded channel, in the place of the key.
fn check_channel_prefix(prefix: &str) -> Result<(), &'static str> {
    if prefix.len() > CHANNEL_PREFIX_MAX_BYTES {
        return Err("deploy.channel-prefix must not be longer than 256 bytes");
    }
    if prefix.contains(['{', '}']) {
        return Err("deploy.channel-prefix must not contain braces");
    }
    Ok(())
}

/// Returns the limits for the engine.
pub fn limits() -> Limits {
    Limits {
        history_max: HISTORY_MAX.size(),
        events_max: EVENTS_MAX.size(),
        manifest_max_bytes: MANIFEST_MAX_BYTES.size(),
        agents_max: AGENTS_MAX.size(),
        versions_alive_max: VERSIONS_ALIVE_MAX.size(),
    }
}

/// Time in µs that the timer may use before clients get their turn.
pub fn tick_budget_us() -> u64 {
    u64::try_from(TICK_BUDGET_US.get()).unwrap_or(0)
}

/// Idle time in ms after which a finished record is kept encoded; None where idle records are never encoded.
pub fn encode_idle_ms() -> Option<u64> {
    u64::try_from(ENCODE_IDLE_MS.get()).ok().filter(|ms| *ms > 0)
}

pub fn publish_mode() -> Publish {
    match PUBLISH.get() {
        0 => Publish::Classic,
        _ => Publish::Sharded,
    }
}

/// Appends the prefix of the events channel.
pub fn push_channel_prefix(text: &mut String) {
    CHANNEL_PREFIX.with_text(|prefix| text.push_str(prefix));
}

impl Config {
    const fn new(name: &'static CStr, kind: ConfigKind, initial: i64) -> Config {
        Config { name, kind, value: AtomicI64::new(initial), text: RwLock::new(None) }
    }

    const fn number(name: &'static CStr, default: i64, min: i64, max: i64) -> Config {
        Config::new(name, ConfigKind::Number { default, min, max, is_memory: false }, default)
    }

    const fn memory(name: &'static CStr, default: i64, min: i64, max: i64) -> Config {
        Config::new(name, ConfigKind::Number { default, min, max, is_memory: true }, default)
    }

    const fn choice(name: &'static CStr, choices: &'static [&'static CStr]) -> Config {
        Config::new(name, ConfigKind::Choice(choices), 0)
    }

    const fn text(name: &'static CStr, default: &'static str, check: fn(&str) -> Result<(), &'static str>) -> Config {
        Config::new(name, ConfigKind::Text { default, check }, 0)
    }

    /// The number, or the number of the choice.
    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// Sets the number, or the number of the choice. The server has checked the range.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }

    /// Calls `read` with the text.
    pub fn with_text<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        let default = match &self.kind {
            ConfigKind::Text { default, .. } => default,
            _ => "",
        };
        read(self.text.read().unwrap_or_else(PoisonError::into_inner).as_deref().unwrap_or(default))
    }

    /// Sets the text; the error says what it must be.
    pub fn set_text(&self, text: &[u8]) -> Result<(), &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "deploy.channel-prefix must be UTF-8")?;
        if let ConfigKind::Text { check, .. } = &self.kind {
            check(text)?;
        }
        *self.text.write().unwrap_or_else(PoisonError::into_inner) = Some(text.to_string());
        Ok(())
    }

    /// The value as the configuration file would have it.
    fn display(&self) -> String {
        match &self.kind {
            ConfigKind::Number { .. } => self.get().to_string(),
            ConfigKind::Text { .. } => self.with_text(str::to_string),
            ConfigKind::Choice(choices) => {
                let choice = usize::try_from(self.get()).ok().and_then(|index| choices.get(index));
                choice.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
    }

    /// Parses the value of a module argument; the error says what it must be.
    fn parse(&self, name: &str, value: &str) -> Result<ConfigValue, String> {
        match &self.kind {
            ConfigKind::Number { min, max, is_memory, .. } => parse_number(value, *is_memory)
                .filter(|number| (min..=max).contains(&number))
                .map(ConfigValue::Number)
                .ok_or_else(|| format!("{name} must be an integer from {min} to {max}, and is {value}")),
            ConfigKind::Text { check, .. } => {
                check(value)?;
                Ok(ConfigValue::Text(value.to_string()))
            }
            ConfigKind::Choice(choices) => {
                let index = choices.iter().position(|choice| choice.to_bytes().eq_ignore_ascii_case(value.as_bytes()));
                let known: Vec<_> = choices.iter().map(|choice| choice.to_string_lossy()).collect();
                let index = index.ok_or_else(|| format!("{name} must be {}, and is {value}", known.join(" or ")))?;
                Ok(ConfigValue::Number(index as i64))
            }
        }
    }
}

/// Parses a number as the configuration file has it: with a unit where it is an amount of memory.
fn parse_number(text: &str, is_memory: bool) -> Option<i64> {
    let text = text.to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: i64 = match &text[digits.len()..] {
        "" => 1,
        _ if !is_memory => return None,
        "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

/// The values of `loadmodule … name value`, by name. The configuration file and CONFIG SET override them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModuleArguments(Vec<(&'static CStr, ConfigValue)>);

impl ModuleArguments {
    pub fn parse(args: &[String]) -> Result<ModuleArguments, String> {
        let mut arguments = ModuleArguments::default();
        for pair in args.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("the argument {} has no value", pair.concat()));
            };
            arguments.add(name.strip_prefix("deploy.").unwrap_or(name), value)?;
        }
        Ok(arguments)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        let config = CONFIGS.iter().find(|config| config.name.to_bytes().eq_ignore_ascii_case(name.as_bytes()));
        let config = config.ok_or_else(|| format!("there is no configuration deploy.{name}"))?;
        let value = config.parse(name, value)?;
        if self.get(config.name).is_some() {
            return Err(format!("{name} is given twice"));
        }
        self.0.push((config.name, value));
        Ok(())
    }

    /// The value of the configuration with this name, where one was given.
    pub fn get(&self, name: &CStr) -> Option<&ConfigValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Every value in one line, for the log.
pub fn summary() -> String {
    let values = CONFIGS.iter().map(|config| format!("{} {}", config.name.to_string_lossy(), config.display()));
    values.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<ModuleArguments, String> {
        let mut arguments = ModuleArguments::default();
        pairs.iter().try_for_each(|(name, value)| arguments.add(name, value)).map(|()| arguments)
    }

    #[test]
    fn module_arguments_are_checked_as_config_set_does() {
        let arguments = parsed(&[("manifest-max-bytes", "1mb"), ("PUBLISH", "Sharded"), ("channel-prefix", "x:")]);
        let arguments = arguments.expect("good arguments");
        assert_eq!(arguments.get(c"manifest-max-bytes"), Some(&ConfigValue::Number(1 << 20)));
        assert_eq!(arguments.get(c"publish"), Some(&ConfigValue::Number(1)));
        assert_eq!(arguments.get(c"channel-prefix"), Some(&ConfigValue::Text("x:".to_string())));
        assert_eq!(arguments.get(c"history-max"), None);
        for (bad, error) in [
            (("history-max", "0"), "history-max must be an integer from 1 to 10000, and is 0"),
            (("history-max", "1k"), "history-max must be an integer from 1 to 10000, and is 1k"),
            (("publish", "loud"), "publish must be classic or sharded, and is loud"),
            (("channel-prefix", "{x}"), "deploy.channel-prefix must not contain braces"),
            (("colour", "red"), "there is no configuration deploy.colour"),
        ] {
            assert_eq!(parsed(&[bad]), Err(error.to_string()));
        }
        assert_eq!(parsed(&[("publish", "classic"); 2]), Err("publish is given twice".to_string()));
    }
}
