//! Access to one function of the module API by its name.

/// Evaluates to the function pointer, `None` where the server is too old to have the function.
macro_rules! api {
    ($name:ident) => {
        // SAFETY: written by the crate's initialisation before OnLoad runs, and never again.
        unsafe { redis_module::raw::$name }
    };
}
pub(crate) use api;

/// The server does not have a function, or refused a call; it has logged the cause where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;
