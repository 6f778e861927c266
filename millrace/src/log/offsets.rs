//! What a group's committed offset says: where to go on, or that an operator reset the group with a stock tool.

/// Metadata of our offset commits; the stock tools commit an empty text.
pub fn metadata(epoch: i64, next: i64) -> String {
    format!("v1;{epoch};{next}")
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
}
