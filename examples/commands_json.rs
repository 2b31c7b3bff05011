//! Prints `docs/commands.json`, made from the module's command table; see `scripts/commands-json`.

use redis_deploy::redis::command_table;

fn main() -> Result<(), serde_json::Error> {
    print!("{}", command_table::commands_json()?);
    Ok(())
}
