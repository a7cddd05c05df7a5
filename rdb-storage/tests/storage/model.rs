//! Any sequence of commands, however it is cut into submissions and across reopens, does what a map in memory does.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rdb_storage::limits::CONFLICT_VALUE_BYTES_MAX;
use rdb_storage::{
    Command, KeyValue, Outcome, ScanRange, Storage, Submission, Versioned, VersionedKeyValue,
};

use crate::fixture::{flushing, one_worker, open, read_raw, remove, swap};

const RAW_KEYS: u8 = 6;
const REGIONS: u64 = 3;
const VERSIONED_KEYS_PER_REGION: u8 = 3;

/// What the storage should hold.
#[derive(Debug, Default)]
struct Model {
    raw: BTreeMap<Bytes, Bytes>,
    versioned: BTreeMap<Bytes, Versioned>,
    floors: BTreeMap<u64, u64>,
}

impl Model {
    fn apply(&mut self, region_id: u64, command: &Command) -> Outcome {
        match command {
            Command::PutRaw { key, value } => {
                self.raw.insert(key.clone(), value.clone());
            }
            Command::DeleteRaw { key } => {
                self.raw.remove(key);
            }
            Command::PutBatchRaw { entries } => self.raw.extend(entries.iter().cloned()),
            Command::DeleteRangeRaw { start_key, end_key } => {
                self.raw
                    .retain(|key, _| key < start_key || !end_key.is_empty() && key >= end_key);
            }
            Command::CompareAndSwap {
                key,
                expected_version,
                value,
            } => {
                if self.version(key) != *expected_version {
                    return self.conflict(key);
                }
                let floor = self.floors.get(&region_id).copied().unwrap_or(0);
                let version = match expected_version {
                    0 => floor + 1,
                    version => version + 1,
                };
                let value = value.clone();
                self.versioned
                    .insert(key.clone(), Versioned { version, value });
                return Outcome::Swapped { version };
            }
            Command::CompareAndDelete {
                key,
                expected_version,
            } => {
                if self.version(key) != *expected_version {
                    return self.conflict(key);
                }
                self.versioned.remove(key);
                let floor = self.floors.entry(region_id).or_default();
                *floor = (*floor).max(*expected_version);
            }
            Command::PutRegion(_) => {}
        }
        Outcome::Done
    }

    fn version(&self, key: &Bytes) -> u64 {
        self.versioned.get(key).map_or(0, |current| current.version)
    }

    fn conflict(&self, key: &Bytes) -> Outcome {
        let value = self.versioned.get(key).map(|current| current.value.clone());
        Outcome::Conflict {
            current_version: self.version(key),
            current_value: value.filter(|value| value.len() <= CONFLICT_VALUE_BYTES_MAX),
        }
    }
}

/// A command in the making: what it expects is known only when its turn comes.
#[derive(Debug, Clone)]
enum Write {
    Put(u8, Value),
    Delete(u8),
    PutBatch(Vec<(u8, Value)>),
    DeleteRange(Option<u8>, Option<u8>),
    Swap(u8, Expected, Value),
    Remove(u8, Expected),
}

#[derive(Debug, Clone)]
enum Value {
    Short(Vec<u8>),
    Long { over_the_conflict_limit: bool },
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Current,
    Fixed(u64),
}

#[derive(Debug, Clone)]
enum Step {
    /// Queued before the first is waited for, one for each region. They are applied in any order, so each has its own keys.
    Submit(BTreeMap<u64, Vec<Write>>),
    Reopen {
        close_first: bool,
    },
}

impl Write {
    fn command(&self, region_id: u64, model: &Model) -> Option<Command> {
        Some(match self {
            Self::Put(key, value) => Command::PutRaw {
                key: raw_key(region_id, *key),
                value: value.bytes(),
            },
            Self::Delete(key) => Command::DeleteRaw {
                key: raw_key(region_id, *key),
            },
            Self::PutBatch(entries) => Command::PutBatchRaw {
                entries: entries
                    .iter()
                    .map(|(key, value)| (raw_key(region_id, *key), value.bytes()))
                    .collect(),
            },
            Self::DeleteRange(start, end) if end.is_none() || start < end => {
                Command::DeleteRangeRaw {
                    start_key: start.map_or(region_start(region_id), |key| raw_key(region_id, key)),
                    end_key: end.map_or(region_start(region_id + 1), |key| raw_key(region_id, key)),
                }
            }
            Self::DeleteRange(..) => return None,
            Self::Swap(key, expected, value) => {
                let key = versioned_key(region_id, *key);
                let expected_version = expected.version(model, &key);
                swap(key, expected_version, value.bytes())
            }
            Self::Remove(key, expected) => {
                let key = versioned_key(region_id, *key);
                let expected_version = expected.version(model, &key).max(1);
                remove(key, expected_version)
            }
        })
    }
}

impl Value {
    fn bytes(&self) -> Bytes {
        match self {
            Self::Short(bytes) => bytes.clone().into(),
            Self::Long {
                over_the_conflict_limit,
            } => {
                let bytes = CONFLICT_VALUE_BYTES_MAX + usize::from(*over_the_conflict_limit);
                vec![b'x'; bytes].into()
            }
        }
    }
}

impl Expected {
    fn version(self, model: &Model, key: &Bytes) -> u64 {
        match self {
            Self::Current => model.version(key),
            Self::Fixed(version) => version,
        }
    }
}

/// Where the raw keys of a region begin. The first region begins with the lowest key, and the last has no end.
fn region_start(region_id: u64) -> Bytes {
    match region_id {
        2..=REGIONS => vec![b'a' + region_id as u8].into(),
        _ => Bytes::new(),
    }
}

fn raw_key(region_id: u64, index: u8) -> Bytes {
    vec![b'a' + region_id as u8, b'a' + index].into()
}

fn versioned_key(region_id: u64, index: u8) -> Bytes {
    format!("{region_id}{index}").into()
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        12 => vec(any::<u8>(), 0..4).prop_map(Value::Short),
        1 => any::<bool>().prop_map(|over_the_conflict_limit| Value::Long { over_the_conflict_limit }),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let raw = 0..RAW_KEYS;
    let versioned = 0..VERSIONED_KEYS_PER_REGION;
    let expected =
        prop_oneof![3 => Just(Expected::Current), 1 => (0..6_u64).prop_map(Expected::Fixed)];
    prop_oneof![
        3 => (raw.clone(), value()).prop_map(|(key, value)| Write::Put(key, value)),
        1 => raw.clone().prop_map(Write::Delete),
        1 => vec((raw.clone(), value()), 1..4).prop_map(Write::PutBatch),
        1 => (proptest::option::of(raw.clone()), proptest::option::of(raw))
            .prop_map(|(start, end)| Write::DeleteRange(start, end)),
        6 => (versioned.clone(), expected.clone(), value())
            .prop_map(|(key, expected, value)| Write::Swap(key, expected, value)),
        4 => (versioned, expected).prop_map(|(key, expected)| Write::Remove(key, expected)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let submissions = btree_map(1..=REGIONS, vec(write(), 0..16), 1..=REGIONS as usize);
    prop_oneof![
        8 => submissions.prop_map(Step::Submit),
        1 => any::<bool>().prop_map(|close_first| Step::Reopen { close_first }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_equals_the_model(
        steps in vec(step(), 1..24),
        limit in 1..5_usize,
        write_batch_bytes_max in prop_oneof![Just(1_usize), Just(1000), Just(8 << 20)],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut options = flushing();
        options.write_batch_bytes_max = write_batch_bytes_max;
        let mut storage = open(directory.path(), &options);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Submit(submissions) => submit_and_compare(&storage, &mut model, &submissions),
                Step::Reopen { close_first } => {
                    if close_first {
                        storage.close().unwrap();
                    }
                    drop(storage);
                    storage = open(directory.path(), &options);
                    compare(&storage, &model, limit);
                }
            }
        }
        compare(&storage, &model, limit);
    }
}

/// Queues all submissions before it waits for the first, so that they are applied as one batch or a few.
fn submit_and_compare(
    storage: &Storage,
    model: &mut Model,
    submissions: &BTreeMap<u64, Vec<Write>>,
) {
    let mut pending = Vec::new();
    for (region_id, writes) in submissions {
        let mut commands = Vec::new();
        let mut expected = Vec::new();
        for write in writes {
            if let Some(command) = write.command(*region_id, model) {
                expected.push(model.apply(*region_id, &command));
                commands.push(command);
            }
        }
        if commands.is_empty() {
            continue;
        }
        let submission = Submission::new(*region_id, commands);
        pending.push((storage.submit(submission).unwrap(), expected));
    }
    for (pending, expected) in pending {
        assert_eq!(pending.wait().unwrap(), expected);
    }
}

/// Reads everything in every way there is.
fn compare(storage: &Storage, model: &Model, limit: usize) {
    let runtime = one_worker(1);
    let reader = storage.reader();

    let raw_keys: Vec<_> = (1..=REGIONS)
        .flat_map(|region_id| (0..RAW_KEYS).map(move |index| raw_key(region_id, index)))
        .collect();
    let raw: Vec<_> = raw_keys
        .iter()
        .map(|key| model.raw.get(key).cloned())
        .collect();
    assert_eq!(storage.multi_get_raw(&raw_keys).unwrap(), raw);
    assert_eq!(
        runtime
            .block_on(reader.multi_get_raw(raw_keys.clone(), usize::MAX))
            .unwrap(),
        raw
    );
    for (key, value) in raw_keys.iter().zip(raw) {
        assert_eq!(storage.get_raw(key).unwrap(), value);
        assert_eq!(
            runtime.block_on(read_raw(&reader, key.clone())).unwrap(),
            value
        );
    }

    let versioned_keys: Vec<_> = (1..=REGIONS)
        .flat_map(|region_id| {
            (0..VERSIONED_KEYS_PER_REGION).map(move |index| versioned_key(region_id, index))
        })
        .collect();
    let versioned: Vec<_> = versioned_keys
        .iter()
        .map(|key| model.versioned.get(key).cloned())
        .collect();
    assert_eq!(
        storage.multi_get_versioned(&versioned_keys).unwrap(),
        versioned
    );
    assert_eq!(
        runtime
            .block_on(reader.multi_get_versioned(versioned_keys.clone(), usize::MAX))
            .unwrap(),
        versioned
    );
    for (key, value) in versioned_keys.iter().zip(versioned) {
        assert_eq!(storage.get_versioned(key).unwrap(), value);
    }

    for (reverse, keys_only) in [(false, false), (true, false), (false, true), (true, true)] {
        compare_scans(
            storage,
            model,
            ScanRange {
                limit: Some(limit),
                reverse,
                keys_only,
                ..ScanRange::default()
            },
        );
    }
}

fn compare_scans(storage: &Storage, model: &Model, range: ScanRange) {
    let bounds = [
        (Bytes::new(), Bytes::new()),
        (raw_key(1, 1), raw_key(2, 4)),
        (versioned_key(1, 1), versioned_key(3, 1)),
    ];
    for (start_key, end_key) in bounds {
        let range = ScanRange {
            start_key,
            end_key,
            ..range.clone()
        };
        let raw = within(&model.raw, &range, |key, value| KeyValue {
            key: key.clone(),
            value: shown(&range, value),
        });
        let pages = |range: &ScanRange| {
            let page = storage.scan_raw(range).unwrap();
            (page.entries, page.resume_key)
        };
        assert_eq!(all_pages(range.clone(), pages), raw);

        let versioned = within(&model.versioned, &range, |key, current| VersionedKeyValue {
            key: key.clone(),
            version: current.version,
            value: shown(&range, &current.value),
        });
        let pages = |range: &ScanRange| {
            let page = storage.scan_versioned(range).unwrap();
            (page.entries, page.resume_key)
        };
        assert_eq!(all_pages(range.clone(), pages), versioned);
    }
}

fn shown(range: &ScanRange, value: &Bytes) -> Bytes {
    if range.keys_only {
        Bytes::new()
    } else {
        value.clone()
    }
}

/// What a scan of `range` should find, in its order.
fn within<V, T>(
    map: &BTreeMap<Bytes, V>,
    range: &ScanRange,
    entry: impl Fn(&Bytes, &V) -> T,
) -> Vec<T> {
    let end = match range.end_key.is_empty() {
        true => Bound::Unbounded,
        false => Bound::Excluded(range.end_key.clone()),
    };
    let found = map.range((Bound::Included(range.start_key.clone()), end));
    let mut entries: Vec<_> = found.map(|(key, value)| entry(key, value)).collect();
    if range.reverse {
        entries.reverse();
    }
    entries
}

/// Follows the pages to the end of the range.
fn all_pages<T>(
    mut range: ScanRange,
    page_of: impl Fn(&ScanRange) -> (Vec<T>, Option<Bytes>),
) -> Vec<T> {
    let limit = range.limit.unwrap();
    let mut all = Vec::new();
    loop {
        let (entries, resume_key) = page_of(&range);
        assert!(entries.len() <= limit);
        all.extend(entries);
        match resume_key {
            None => return all,
            Some(resume_key) if range.reverse => range.end_key = resume_key,
            Some(resume_key) => range.start_key = resume_key,
        }
    }
}
