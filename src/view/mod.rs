//! The shapes of replies and events (rules 5 and 7), and the SHOW page.
//!
//! ```text
//! record, event, plan, receipt ──► shape (derives Serialize) ──► serde_json  ──► JSON, one string
//!                                                           └──► redis::resp ──► maps, arrays, strings, integers
//! record, key, now ─────────────► lines ──► the page of `show`
//! ```
//!
//! Each shape is one struct that borrows from the record, so its two writings cannot differ. Its fields stand in the
//! order in which they are replied; a field that does not apply is null; fields are added at the end. Times are unix
//! milliseconds, versions and revisions count from 1, and names of states are those of rule 7.
//!
//! Pure like the engine: a shape depends on the record alone, so that a replica and its primary, or a server before and
//! after a restart, reply the same. The page of `show` depends on the present time as well, which is an argument.

mod discovery;
mod event_fields;
mod events;
mod health;
mod plan;
mod receipt;
mod show;
mod status;
mod tasks;
mod value;
mod version;
mod wait;

// Each file exports its shapes and the functions that build them.
pub use discovery::*;
pub use events::*;
pub use health::*;
pub use plan::*;
pub use receipt::*;
pub use show::*;
pub use status::*;
pub use tasks::*;
pub use value::{append_json, to_json, RawJson};
pub use version::*;
pub use wait::*;
