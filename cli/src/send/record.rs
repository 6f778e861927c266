//! What became of each line: the acks file, the rejects file and the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;

use super::http::{Accepted, Answer};

/// Distinct reasons that are counted one by one; a reason may hold an id, so their number is unbounded.
const REASONS_MAX: usize = 200;
const OTHER_REASONS: &str = "other reasons (see the rejects file)";

/// A line that has its answer.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) number: u64,
    pub(super) input: String,
    /// Aggregate id; none where the line was no command.
    pub(super) id: Option<String>,
    pub(super) answer: Answer,
}

#[derive(Serialize)]
struct Ack<'a> {
    line: u64,
    id: &'a str,
    version: i64,
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
}

#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    status: u16,
    reason: &'a str,
    input: &'a RawValue,
}

/// What `send` did, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Accepted now.
    pub(super) accepted: u64,
    /// Accepted before under the same id; nothing was written now.
    pub(super) repeated: u64,
    /// In the rejects file.
    pub(super) refused: u64,
    /// How often each reason was given; numbers in it are written `#`.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Every line up to this one is settled.
    pub(super) settled_to: u64,
    /// Why the run ended before the input did.
    pub(super) stopped: Option<String>,
    pub(super) rejects: PathBuf,
    pub(super) seconds: f64,
}

/// Writes outcomes and counts them.
pub(super) struct Recorder {
    rejects: Output,
    acks: Option<Output>,
    pub(super) summary: Summary,
    /// Settled lines beyond the first that is not.
    ahead: BTreeSet<u64>,
}

struct Output {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.file
            .flush()
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Recorder {
    /// Creates the files; both are overwritten.
    pub(super) fn create(rejects: &Path, acks: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            rejects: Output::create(rejects)?,
            acks: acks.map(Output::create).transpose()?,
            summary: Summary {
                rejects: rejects.to_owned(),
                ..Summary::default()
            },
            ahead: BTreeSet::new(),
        })
    }

    /// Records these lines and flushes. A line counts only after its record reached the file.
    pub(super) fn record(&mut self, batch: &[Settled]) -> anyhow::Result<()> {
        for settled in batch {
            match &settled.answer {
                Answer::Accepted(accepted) => self.ack(settled, accepted)?,
                Answer::Refused { status, reason } => self.rejects.write(&Reject {
                    line: settled.number,
                    status: *status,
                    reason,
                    input: serde_json::from_str(&settled.input)?,
                })?,
            }
        }
        self.rejects.flush()?;
        if let Some(acks) = &mut self.acks {
            acks.flush()?;
        }
        batch.iter().for_each(|settled| self.count(settled));
        Ok(())
    }

    fn ack(&mut self, settled: &Settled, accepted: &Accepted) -> anyhow::Result<()> {
        let Some(acks) = &mut self.acks else {
            return Ok(());
        };
        acks.write(&Ack {
            line: settled.number,
            id: settled.id.as_deref().unwrap_or_default(),
            version: accepted.version,
            token: accepted.token.as_deref(),
            repeated: accepted.repeated,
        })
    }

    fn count(&mut self, settled: &Settled) {
        match &settled.answer {
            Answer::Accepted(accepted) if accepted.repeated => self.summary.repeated += 1,
            Answer::Accepted(_) => self.summary.accepted += 1,
            Answer::Refused { status, reason } => {
                self.summary.refused += 1;
                let reasons = &mut self.summary.reasons;
                let named = format!("{status} {}", without_numbers(reason));
                let known = reasons.contains_key(&named) || reasons.len() < REASONS_MAX;
                let named = if known {
                    named
                } else {
                    OTHER_REASONS.to_owned()
                };
                *reasons.entry(named).or_insert(0) += 1;
            }
        }
        self.settle(settled.number);
    }

    /// Blank lines have nothing to record but are settled as well.
    pub(super) fn settle(&mut self, number: u64) {
        self.ahead.insert(number);
        while self.ahead.remove(&(self.summary.settled_to + 1)) {
            self.summary.settled_to += 1;
        }
    }
}

/// Reasons name lines and ids; without their numbers, equal faults count together.
fn without_numbers(reason: &str) -> String {
    let mut out = String::with_capacity(reason.len());
    for letter in reason.chars() {
        match letter {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    out
}
