//! What a group's committed offset says: where to go on, or that an operator reset the group with a stock tool.

use crate::handled::Handled;

/// Metadata of our offset commits; the stock tools commit an empty text.
pub fn metadata(epoch: i64, next: i64) -> String {
    format!("v1;{epoch};{next}")
}

/// The same with what was handled up to there, for a handler that keeps nothing anywhere else. A broker takes 4096 bytes
/// (`offset.metadata.max.bytes`); [`Handled`] bounds its only long text.
pub(crate) fn metadata_with(epoch: i64, next: i64, handled: &Handled) -> String {
    let handled = serde_json::to_string(handled).unwrap_or_default();
    format!("{};{handled}", metadata(epoch, next))
}

/// An offset that the group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// Text that was committed with it.
    pub metadata: String,
}

impl Committed {
    /// True where nobody but an operator's tool can have committed it.
    pub fn is_reset(&self) -> bool {
        self.metadata.is_empty()
    }

    /// How often the partition had been claimed when this was committed; 0 where the text does not say.
    pub fn epoch(&self) -> i64 {
        let mut parts = self.metadata.split(';');
        match (parts.next(), parts.next()) {
            (Some("v1"), Some(epoch)) => epoch.parse().unwrap_or_default(),
            _ => 0,
        }
    }

    /// What had been handled when this was committed; nothing where the text does not say.
    pub(crate) fn handled(&self) -> Handled {
        let text = self.metadata.splitn(4, ';').nth(3);
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_reads_back_and_a_strangers_text_has_none() {
        let of = |metadata: &str| Committed {
            offset: 7,
            metadata: metadata.to_owned(),
        };
        assert_eq!(of(&metadata(12, 7)).epoch(), 12);
        assert_eq!(of("").epoch(), 0);
        assert_eq!(of("v2;3;4").epoch(), 0);
        assert!(of("").is_reset());
        assert!(!of("v2;3;4").is_reset());
    }

    #[test]
    fn what_was_handled_reads_back_beside_the_epoch() {
        let mut handled = Handled {
            events: 3,
            ..Handled::default()
        };
        handled.failed(&"\u{fc};".repeat(5_000));
        let committed = Committed {
            offset: 7,
            metadata: metadata_with(12, 7, &handled),
        };
        assert!(
            committed.metadata.len() < 4096,
            "{}",
            committed.metadata.len()
        );
        assert_eq!((committed.epoch(), committed.handled()), (12, handled));
        assert_eq!(
            Committed {
                offset: 7,
                metadata: metadata(1, 7)
            }
            .handled(),
            Handled::default()
        );
    }
}
