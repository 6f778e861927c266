//! Pages by key: stable while rows are added and removed, at the same cost on every page.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::query::QueryError;

/// Rows of a page where the caller does not say.
pub(super) const LIMIT_DEFAULT: i64 = 50;
/// Most rows of a page.
pub(super) const LIMIT_MAX: i64 = 500;

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    limit: i64,
    cursor: Option<String>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            limit: LIMIT_DEFAULT,
            cursor: None,
        }
    }
}

/// A page of rows, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Listed<T> {
    /// The rows.
    pub items: Vec<T>,
    /// To be given back for the next page; none on the last one.
    pub cursor: Option<String>,
}

impl Page {
    /// A page of up to `limit` rows (1 to 500) after `cursor`, as an earlier page gave it.
    pub fn new(limit: Option<i64>, cursor: Option<String>) -> Result<Self, QueryError> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(QueryError::Malformed(format!(
                "limit: {limit} is not between 1 and {LIMIT_MAX}"
            )));
        }
        Ok(Self { limit, cursor })
    }

    /// What to fetch: one row more than the page holds says whether there is a next page.
    pub fn fetch_limit(&self) -> i64 {
        self.limit + 1
    }

    /// The key that the page begins after; none on the first page. `list` is the name given to
    /// [`listed`](Self::listed): a cursor of another list is refused.
    pub fn key<K: DeserializeOwned>(&self, list: &str) -> Result<Option<K>, QueryError> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let malformed = || {
            QueryError::Malformed(
                "cursor: it is none that this list gave out; begin again without one".to_owned(),
            )
        };
        let json = decode(cursor).ok_or_else(malformed)?;
        let (of, key): (String, K) = serde_json::from_slice(&json).map_err(|_| malformed())?;
        if of == list {
            Ok(Some(key))
        } else {
            Err(malformed())
        }
    }

    /// The page of what was fetched with [`fetch_limit`](Self::fetch_limit); `key` is what the rows are ordered
    /// by and must tell any two of them apart.
    pub fn listed<T, K: Serialize>(
        &self,
        list: &str,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Listed<T> {
        let limit = self.limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more);
        let cursor = last.map(|row| {
            let json = serde_json::to_vec(&(list, key(row)));
            encode(&json.expect("a key of text, numbers and times is JSON"))
        });
        Listed {
            items: rows,
            cursor,
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_of_a_full_page_leads_to_the_next_and_the_last_page_has_none() {
        let first = Page::new(Some(2), None)
            .unwrap()
            .listed("rows", vec![1, 2, 3], |row| *row);
        assert_eq!(first.items, [1, 2]);
        let next = Page::new(Some(2), first.cursor).unwrap();
        assert_eq!(next.key::<i32>("rows").unwrap(), Some(2));
        assert_eq!(next.listed("rows", vec![3], |row| *row).cursor, None);
    }

    #[test]
    fn a_cursor_that_this_list_did_not_give_out_is_refused() {
        let of_another = Page::new(Some(1), None)
            .unwrap()
            .listed("others", vec![1, 2], |row| *row)
            .cursor;
        for cursor in [of_another.unwrap().as_str(), "zz", "5", "00", "é1"] {
            let page = Page::new(None, Some(cursor.to_owned())).unwrap();
            assert!(
                matches!(page.key::<i32>("rows"), Err(QueryError::Malformed(_))),
                "{cursor}"
            );
        }
    }

    #[test]
    fn a_limit_out_of_bounds_is_refused() {
        for limit in [0, -1, 501] {
            assert!(Page::new(Some(limit), None).is_err(), "{limit}");
        }
    }
}
