//! The configuration (rule 6): `deploy.*`, by CONFIG SET, the configuration file, or `loadmodule … name value`.

use super::ffi::{self, Ctx, LogLevel, Unavailable};
use crate::engine::Limits;
use redis_module::RedisString;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

/// One number.
pub struct NumberConfig {
    pub name: &'static CStr,
    pub default: i64,
    pub min: i64,
    pub max: i64,
    /// Whether `1mb` may be written for it.
    pub is_memory: bool,
    value: AtomicI64,
}

impl NumberConfig {
    const fn new(name: &'static CStr, default: i64, min: i64, max: i64, is_memory: bool) -> NumberConfig {
        NumberConfig { name, default, min, max, is_memory, value: AtomicI64::new(default) }
    }

    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// A number as the configuration file may have it: of memory, also with a unit.
    fn parse(&self, text: &str) -> Option<i64> {
        let text = text.to_ascii_lowercase();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: i64 = match &text[digits.len()..] {
            "" => 1,
            _ if !self.is_memory => return None,
            "b" => 1,
            "k" => 1_000,
            "kb" => 1 << 10,
            "m" => 1_000_000,
            "mb" => 1 << 20,
            _ => return None,
        };
        digits.parse::<i64>().ok()?.checked_mul(unit)
    }

    /// The server has judged the range.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }
}

/// The most versions kept: a large reply copies the record, and each version is a word in it.
static HISTORY_MAX: NumberConfig = NumberConfig::new(c"history-max", 50, 1, 10_000, false);
static EVENTS_MAX: NumberConfig = NumberConfig::new(c"events-max", 100, 1, 100_000, false);
/// No more than what the codec reads back as one text.
static MANIFEST_MAX_BYTES: NumberConfig = NumberConfig::new(c"manifest-max-bytes", 1 << 20, 1024, 4 << 20, true);
static AGENTS_MAX: NumberConfig = NumberConfig::new(c"agents-max", 10_000, 1, 100_000, false);
/// How long one turn of the timer may take before it lets clients in.
static TICK_BUDGET_US: NumberConfig = NumberConfig::new(c"tick-budget-us", 1_000, 100, 1_000_000, false);

/// How long nobody has to ask for a deployment that is over, until its record is put to rest; 0 for never.
static REST_AFTER_MS: NumberConfig = NumberConfig::new(c"rest-after-ms", 10_000, 0, 86_400_000, false);

pub static NUMBERS: [&NumberConfig; 6] =
    [&HISTORY_MAX, &EVENTS_MAX, &MANIFEST_MAX_BYTES, &AGENTS_MAX, &TICK_BUDGET_US, &REST_AFTER_MS];

pub const CHANNEL_PREFIX: &CStr = c"channel-prefix";
pub const CHANNEL_PREFIX_DEFAULT: &CStr = c"deploy:events:";
const CHANNEL_PREFIX_MAX_BYTES: usize = 256;

pub const PUBLISH: &CStr = c"publish";

/// Which kind of publishing the events take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Publish {
    Classic = 0,
    /// On a channel of the key's slot.
    Sharded = 1,
}

pub const PUBLISH_NAMES: [(&CStr, Publish); 2] = [(c"classic", Publish::Classic), (c"sharded", Publish::Sharded)];

static PUBLISH_MODE: AtomicI32 = AtomicI32::new(Publish::Classic as i32);
static PREFIX: RwLock<Option<String>> = RwLock::new(None);

pub fn limits() -> Limits {
    Limits {
        history_max: HISTORY_MAX.size(),
        events_max: EVENTS_MAX.size(),
        manifest_max_bytes: MANIFEST_MAX_BYTES.size(),
        agents_max: AGENTS_MAX.size(),
    }
}

pub fn tick_budget_us() -> u64 {
    u64::try_from(TICK_BUDGET_US.get()).unwrap_or(0)
}

/// In ms; None where records never rest.
pub fn rest_after_ms() -> Option<u64> {
    u64::try_from(REST_AFTER_MS.get()).ok().filter(|ms| *ms > 0)
}

pub fn publish_mode() -> Publish {
    if PUBLISH_MODE.load(Ordering::Relaxed) == Publish::Sharded as i32 {
        Publish::Sharded
    } else {
        Publish::Classic
    }
}

pub fn set_publish_mode(value: i32) {
    PUBLISH_MODE.store(value, Ordering::Relaxed);
}

pub fn channel_prefix() -> String {
    let mut prefix = String::new();
    put_channel_prefix(&mut prefix);
    prefix
}

/// Appends the prefix, without a text of its own for each event.
pub fn put_channel_prefix(text: &mut String) {
    match &*PREFIX.read().unwrap_or_else(PoisonError::into_inner) {
        Some(prefix) => text.push_str(prefix),
        None => text.push_str(&CHANNEL_PREFIX_DEFAULT.to_string_lossy()),
    }
}

/// A brace in the prefix would name the hash slot of a sharded channel, instead of the key.
pub fn set_channel_prefix(prefix: &[u8]) -> Result<(), &'static str> {
    let text = std::str::from_utf8(prefix).map_err(|_| "deploy.channel-prefix must be UTF-8")?;
    if text.len() > CHANNEL_PREFIX_MAX_BYTES {
        return Err("deploy.channel-prefix must not be longer than 256 bytes");
    }
    if text.contains(['{', '}']) {
        return Err("deploy.channel-prefix must not contain braces");
    }
    *PREFIX.write().unwrap_or_else(PoisonError::into_inner) = Some(text.to_string());
    Ok(())
}

/// Initial values from `loadmodule … name value`; the configuration file and CONFIG SET have the last word.
#[derive(Debug, Default)]
pub struct Initial {
    numbers: Vec<(&'static CStr, i64)>,
    pub channel_prefix: Option<String>,
    pub publish: Option<Publish>,
}

impl Initial {
    pub fn number(&self, config: &NumberConfig) -> i64 {
        self.numbers.iter().find(|(name, _)| *name == config.name).map_or(config.default, |(_, value)| *value)
    }

    fn parse(args: &[RedisString]) -> Result<Initial, String> {
        let mut initial = Initial::default();
        for pair in args.chunks(2) {
            let [name, value] = pair else {
                let name = pair.first().map(RedisString::to_string_lossy).unwrap_or_default();
                return Err(format!("the argument {name} has no value"));
            };
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            initial.take(name.strip_prefix("deploy.").unwrap_or(&name), &value)?;
        }
        Ok(initial)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is = |known: &CStr| known.to_bytes().eq_ignore_ascii_case(name.as_bytes());
        let once = |is_given: bool| match is_given {
            true => Err(format!("{name} is given twice")),
            false => Ok(()),
        };
        if let Some(config) = NUMBERS.iter().find(|config| is(config.name)) {
            let number = config.parse(value).filter(|n| (config.min..=config.max).contains(n)).ok_or_else(|| {
                format!("{name} must be an integer from {} to {}, and is {value}", config.min, config.max)
            })?;
            once(self.numbers.iter().any(|(known, _)| *known == config.name))?;
            self.numbers.push((config.name, number));
        } else if is(CHANNEL_PREFIX) {
            once(self.channel_prefix.is_some())?;
            set_channel_prefix(value.as_bytes())?;
            self.channel_prefix = Some(value.to_string());
        } else if is(PUBLISH) {
            let known = PUBLISH_NAMES.iter().find(|(known, _)| known.to_bytes().eq_ignore_ascii_case(value.as_bytes()));
            once(self.publish.is_some())?;
            self.publish = Some(known.ok_or_else(|| format!("publish must be classic or sharded, and is {value}"))?.1);
        } else {
            return Err(format!("there is no configuration deploy.{name}"));
        }
        Ok(())
    }
}

/// All of it in one line, as the configuration file would have it.
pub fn summary() -> String {
    let numbers = NUMBERS.iter().map(|config| format!("{} {}", config.name.to_string_lossy(), config.get()));
    let publish = PUBLISH_NAMES.iter().find(|(_, mode)| *mode == publish_mode());
    let publish = publish.map_or_else(String::new, |(name, _)| format!("publish {}", name.to_string_lossy()));
    let prefix = format!("channel-prefix {}", channel_prefix());
    numbers.chain([publish, prefix]).collect::<Vec<_>>().join(", ")
}

/// Registers the configuration and takes over what the configuration file says. The error stops the load.
pub fn register(ctx: Ctx, args: &[RedisString]) -> Result<(), Unavailable> {
    let complain = |text: &str| {
        ctx.log(LogLevel::Warning, &format!("not loaded: {text}"));
        Unavailable
    };
    let initial = Initial::parse(args).map_err(|text| complain(&text))?;
    ffi::register_configs(ctx, &initial).map_err(|name| complain(&format!("deploy.{name} cannot be registered")))?;
    let which = "a value in the configuration file is not allowed; the line above says which";
    ffi::load_configs(ctx).map_err(|Unavailable| complain(which))
}
