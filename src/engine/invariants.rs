use super::deployment::Record;

/// What must hold of every record after every event, and of every record that comes from outside.
pub fn check(record: &Record) -> Result<(), String> {
    if record.instances != record.instances.recounted() {
        return Err("the instances' counts are not their own".to_string());
    }
    Ok(())
}
