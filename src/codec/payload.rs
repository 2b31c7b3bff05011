//! The layout of payloads, which every format has in common: the order of a record's parts, and that of a change set's.
//!
//! Written is the newest format, read is any: a [`Format`] names the shapes of its parts.

use super::convert2::{event_codec, write_event};
use super::error::{DecodeError, MAX_INSTANCES_PER_AGENT};
use super::format::{Format, StoredVersionShape};
use super::format2::*;
use super::shape::{shared_text, IntoValue, Number, Shape, Texts};
use super::wire::{write, Reader};
use crate::engine::event_log::Log as EventLog;
use crate::engine::manifest::ManifestText;
use crate::engine::{event, instance, record, summary, version};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

// ---- the record -----------------------------------------------------------------------------------------------------

/// Appends the payload of a record.
pub(super) fn write_record(record: &record::Record, payload: &mut Vec<u8>) {
    let record::Record {
        revision,
        last_version,
        current_version,
        current_job_id,
        versions,
        deployment,
        instances,
        services,
        log,
        requests,
        created_at,
        updated_at,
    } = record;
    let summary = summary::Summary::of(record);
    write(&summary.as_ref().map(Summary::of), payload);
    let header = RecordHeader {
        revision: Shape::of(revision),
        last_version: Shape::of(last_version),
        current_version: Shape::of(current_version),
        current_job_id: Shape::of(current_job_id),
        deployment: deployment.as_deref().map(Shape::of),
        created_at: Shape::of(created_at),
        updated_at: Shape::of(updated_at),
    };
    write(&header, payload);
    write_versions(versions, payload);
    write(&instances.len(), payload);
    instances.iter().for_each(|instance| write(&Instance::of(instance), payload));
    write(&services.len(), payload);
    services.iter().for_each(|service| write(&Service::of(&**service), payload));
    write(&requests.len(), payload);
    requests.iter().for_each(|entry| write(&IdempotencyEntry::of(entry), payload));
    match log.encoded() {
        Some((count, events)) => write(&Log { count: Shape::of(&count), events }, payload),
        None => {
            let mut events = Vec::new();
            log.iter().for_each(|event| write_event(&event, &mut events));
            write(&Log { count: Shape::of(&log.len()), events: &events }, payload);
        }
    }
}

/// Appends the manifests, each once, and then the versions.
fn write_versions(versions: &[Arc<version::Version>], payload: &mut Vec<u8>) {
    // Versions share a manifest in memory: its text, which is long, is looked at only where its address is new.
    let mut by_address: BTreeMap<*const ManifestText, usize> = BTreeMap::new();
    let mut by_text: HashMap<&str, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut manifests: Vec<&str> = Vec::new();
    let mut indexes: Vec<usize> = Vec::with_capacity(versions.len());
    for version in versions {
        let text = version.content.text();
        indexes.push(*by_address.entry(Arc::as_ptr(&version.content)).or_insert_with(|| {
            *by_text.entry(text).or_insert_with(|| {
                manifests.push(text);
                manifests.len() - 1
            })
        }));
    }
    write(&manifests, payload);
    write(&versions.len(), payload);
    for (index, version) in indexes.iter().zip(versions) {
        write(&StoredVersion { manifest: Shape::of(index), version: Version::of(version) }, payload);
    }
}

/// Reads a record and the summary in front of it.
pub(super) fn read_record<F: Format>(
    payload: &[u8],
) -> Result<(record::Record, Option<summary::Summary>), DecodeError> {
    let (mut from, mut texts) = (Reader::of(payload), Texts::interned());
    let summary = from.read::<Option<F::Summary<'_>>>()?.into_value(&mut texts)?;
    let mut record: record::Record = from.read::<F::RecordHeader<'_>>()?.into_value(&mut texts)?;
    record.versions = Arc::new(read_versions::<F>(&mut from, &mut texts)?);
    let instances: usize = from.read()?;
    for _ in 0..instances {
        let instance: instance::Instance = from.read::<F::Instance<'_>>()?.into_value(&mut texts)?;
        if record.instances.of_agent(&instance.agent).len() >= MAX_INSTANCES_PER_AGENT {
            return Err(DecodeError::Invalid(format!("agent {} has too many instances", instance.agent)));
        }
        record.instances.insert(instance);
    }
    if record.instances.len() != instances {
        return Err(DecodeError::Invalid("an instance comes twice".to_string()));
    }
    let services: usize = from.read()?;
    for _ in 0..services {
        record.services.insert(from.read::<F::Service<'_>>()?.into_value(&mut texts)?);
    }
    if record.services.len() != services {
        return Err(DecodeError::Invalid("a service instance comes twice".to_string()));
    }
    let requests = Arc::make_mut(&mut record.requests);
    for _ in 0..from.read::<usize>()? {
        requests.push_back(from.read::<F::IdempotencyEntry<'_>>()?.into_value(&mut texts)?);
    }
    let Log { count, events } = from.read()?;
    from.finish()?;
    let (count, events) = (count.into_value(&mut texts)?, F::log_events(events)?);
    record.log = EventLog::from_encoded(event_codec(), count, events.into_owned()).ok_or(DecodeError::Malformed)?;
    Ok((record, summary))
}

/// Reads the manifests, and the versions that refer to them. A writer numbers manifests in the order of their first use:
/// any other list is refused, since a manifest that no version uses would be copied and never validated.
fn read_versions<'a, F: Format>(
    from: &mut Reader<'a>,
    texts: &mut Texts<'a>,
) -> Result<Vec<Arc<version::Version>>, DecodeError> {
    let mut unused = Vec::new();
    for _ in 0..from.read::<usize>()? {
        unused.push(from.read::<&str>()?);
    }
    let mut unused = unused.into_iter();
    let mut manifests: Vec<Arc<ManifestText>> = Vec::new();
    let mut versions = Vec::new();
    for _ in 0..from.read::<usize>()? {
        let stored: F::StoredVersion<'a> = from.read()?;
        let index: usize = stored.manifest().into_value(texts)?;
        if index == manifests.len() {
            let text = unused.next().ok_or(DecodeError::Malformed)?;
            manifests.push(Arc::new(ManifestText::new(shared_text(text)?)));
        }
        let content = manifests.get(index).cloned().ok_or(DecodeError::Malformed)?;
        versions.push(Arc::new(stored.with_content(content, texts)?));
    }
    match unused.next() {
        None => Ok(versions),
        Some(_) => Err(DecodeError::Invalid("it has a manifest of no version".to_string())),
    }
}

/// Reads the summary in front of a record, and nothing else of it.
pub(super) fn read_summary<F: Format>(payload: &[u8]) -> Result<Option<summary::Summary>, DecodeError> {
    Reader::of(payload).read::<Option<F::Summary<'_>>>()?.into_value(&mut Texts::copied())
}

/// Reads the record's own fields, with its deployment, and nothing of its lists.
pub(super) fn read_header<F: Format>(payload: &[u8]) -> Result<record::Record, DecodeError> {
    let mut from = Reader::of(payload);
    from.read::<Option<F::Summary<'_>>>()?;
    from.read::<F::RecordHeader<'_>>()?.into_value(&mut Texts::copied())
}

// ---- change sets ----------------------------------------------------------------------------------------------------

/// Appends the payload of a change set. `known_events` are the bytes of its events as the log has them, or nothing.
pub(super) fn write_change_set(change_set: &event::ChangeSet, known_events: &[u8], payload: &mut Vec<u8>) {
    let event::ChangeSet { changes, log_max } = change_set;
    let mut known = Reader::of(known_events);
    let mut scratch = Vec::new();
    write(&Number::of(log_max), payload);
    write(&changes.len(), payload);
    for change in changes {
        match change {
            event::Change::Event(event) => {
                let bytes = match known.read_bytes() {
                    // The log leaves manifests out.
                    Ok(bytes) if !event.body.has_manifest() => bytes,
                    _ => {
                        scratch.clear();
                        scratch.reserve(256);
                        write(&Event::of(&**event), &mut scratch);
                        &scratch
                    }
                };
                write(&Change::Event(bytes), payload);
            }
            event::Change::Silent(silent) => write(&Change::Silent(Shape::of(silent)), payload),
        }
    }
}

/// Reads a change set.
pub(super) fn read_change_set<F: Format>(payload: &[u8]) -> Result<event::ChangeSet, DecodeError> {
    let mut from = Reader::of(payload);
    let (log_max, count) = (from.read::<Number>()?, from.read::<usize>()?);
    let mut texts = if count > 1 { Texts::interned() } else { Texts::copied() };
    let log_max = log_max.into_value(&mut texts)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        changes.push(from.read::<F::Change<'_>>()?.into_value(&mut texts)?);
    }
    from.finish()?;
    Ok(event::ChangeSet { changes, log_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::convert2::Format2;
    use crate::engine::command::{Command, Context, Deploy, Limits};
    use crate::engine::decide;

    /// Returns the payload of a record's versions: its manifests, in an order of their own, then the rest as written.
    fn with_manifests(versions: &[Arc<version::Version>], manifests: &[&str]) -> Vec<u8> {
        let (mut written, mut own) = (Vec::new(), Vec::new());
        write_versions(versions, &mut written);
        write(&versions.iter().map(|version| &**version.content.text()).collect::<Vec<_>>(), &mut own);
        let mut payload = Vec::new();
        write(&manifests, &mut payload);
        payload.extend_from_slice(written.strip_prefix(&*own).expect("each version has a manifest of its own"));
        payload
    }

    #[test]
    fn manifests_that_no_version_uses_are_refused() {
        let texts = ["1", "2"].map(|image| format!(r#"{{"nodes":[{{"node_id":"a","image":"{image}"}}]}}"#));
        let mut record = record::Record::empty();
        for text in &texts {
            let deploy = Command::Deploy(Deploy { manifest: text.clone().into_bytes(), ..Deploy::default() });
            let context = Context { key: "app", now_ms: 1_000, by: "default", limits: Limits::default() };
            record = decide(Some(&record), &deploy, &context).expect("a valid manifest").record;
        }
        let [first, second] = texts.each_ref().map(String::as_str);
        let read = |manifests: &[&str]| {
            let payload = with_manifests(&record.versions, manifests);
            read_versions::<Format2>(&mut Reader::of(&payload), &mut Texts::interned()).map(|versions| versions.len())
        };
        assert_eq!(read(&[first, second]), Ok(2));
        assert_eq!(read(&[first]), Err(DecodeError::Malformed));
        let unused = DecodeError::Invalid("it has a manifest of no version".to_string());
        assert_eq!(read(&[first, second, "{}"]), Err(unused));

        // The first version refers to the second manifest: the index skips one.
        let mut payload = with_manifests(&record.versions, &[first, second]);
        let mut list = Vec::new();
        write(&[first, second].as_slice(), &mut list);
        let index = list.len() + 1;
        assert_eq!(payload[index], 0);
        payload[index] = 1;
        assert_eq!(
            read_versions::<Format2>(&mut Reader::of(&payload), &mut Texts::interned()),
            Err(DecodeError::Malformed)
        );
    }
}
