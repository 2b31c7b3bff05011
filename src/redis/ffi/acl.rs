//! ACL rights of the caller, for keys that are not arguments of the command.

use super::api::api;
use super::context::Ctx;
use super::string::RStr;
use redis_module::raw;
use std::ffi::c_int;
use std::ptr;

/// The rights of the calling user.
pub struct Rights {
    /// Null where the caller has no user: it may read everything.
    user: *mut raw::RedisModuleUser,
}

impl Rights {
    pub fn of_caller(ctx: Ctx) -> Rights {
        let user = match (ctx.user_name(), api!(RedisModule_GetModuleUserFromUserName)) {
            // SAFETY: the name lives through the call; the user is ours to free.
            (Some(name), Some(get)) => unsafe { get(name.raw()) },
            _ => ptr::null_mut(),
        };
        Rights { user }
    }

    pub fn may_read(&self, key: &RStr) -> bool {
        let Some(check) = api!(RedisModule_ACLCheckKeyPermissions) else { return true };
        if self.user.is_null() {
            return true;
        }
        // SAFETY: the user is not freed yet, and the key lives through the call.
        let status = unsafe { check(self.user, key.raw(), raw::REDISMODULE_CMD_KEY_ACCESS as c_int) };
        status == raw::REDISMODULE_OK as c_int
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if let (false, Some(free)) = (self.user.is_null(), api!(RedisModule_FreeModuleUser)) {
            // SAFETY: it came from GetModuleUserFromUserName, and is freed here and nowhere else.
            unsafe { free(self.user) };
        }
    }
}
