//! Rows of a view: a struct that knows its table, so that a batch is loaded and written in one statement each.

use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono::{DateTime, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgRow};
use uuid::Uuid;

/// A column of a view's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its Postgres type as `information_schema` names it, such as `timestamp with time zone`.
    pub pg_type: &'static str,
}

/// A Rust type that a column can hold.
pub trait ColumnType {
    /// The Postgres type as `information_schema` names it.
    const PG_TYPE: &'static str;
}

macro_rules! column_types {
    ($($rust:ty => $pg:literal),+ $(,)?) => {
        $( impl ColumnType for $rust { const PG_TYPE: &'static str = $pg; } )+
    };
}

column_types! {
    String => "text",
    bool => "boolean",
    i32 => "integer",
    i64 => "bigint",
    f64 => "double precision",
    Uuid => "uuid",
    DateTime<Utc> => "timestamp with time zone",
    serde_json::Value => "jsonb",
}

impl<T: ColumnType> ColumnType for Option<T> {
    const PG_TYPE: &'static str = T::PG_TYPE;
}

/// A row of a view's table; written by [`view_row!`](crate::view_row) or [`tally_row!`](crate::tally_row).
pub trait ViewRow: Clone + PartialEq + Debug + Send + Sync + 'static {
    /// What tells the rows of one aggregate apart; `()` where it owns one row only.
    type Key: Ord + Clone + Debug + Send + Sync;
    /// Table in the build's schema.
    const TABLE: &'static str;
    /// The columns of the key.
    const KEY: &'static [&'static str];
    /// All columns of the struct, those of the key first.
    const COLUMNS: &'static [Column];

    /// This row's key.
    fn key(&self) -> Self::Key;

    /// Adds one array a column, in the order of [`COLUMNS`](Self::COLUMNS).
    fn bind(rows: &[&Self], arguments: &mut PgArguments) -> Result<(), BoxDynError>;

    /// Adds one value for each column of the key.
    fn bind_key(key: &Self::Key, arguments: &mut PgArguments) -> Result<(), BoxDynError>;

    /// Reads the columns that begin at `first`, in the order of [`COLUMNS`](Self::COLUMNS).
    fn read(row: &PgRow, first: usize) -> Result<Self, sqlx::Error>;
}

/// A row of numbers to add; written by [`tally_row!`](crate::tally_row).
pub trait TallyRow: ViewRow {
    /// Adds the other row's numbers; `None` where a number would overflow.
    fn add(&mut self, other: &Self) -> Option<()>;
}

/// A number that a tally adds up.
pub trait Summand: Sized {
    /// The sum, unless it would overflow.
    fn sum(self, other: Self) -> Option<Self>;
}

impl Summand for i64 {
    fn sum(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
}

impl Summand for i32 {
    fn sum(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
}

/// The rows that one aggregate owns: an `Option` of the row, or [`Rows`] where it can own several.
pub trait RowSet: Default + Clone + Send + Sync + 'static {
    /// The row.
    type Row: ViewRow;
    /// True where the aggregate's id alone is the table's primary key.
    const SINGLE: bool;

    /// Takes in a stored row.
    fn load(&mut self, row: Self::Row);

    /// What is touched from now on is touched by the event with this sequence.
    fn begin(&mut self, sequence: i64);

    /// Rows to write: for several, those that were touched, each with the event that touched it last.
    fn written(&self) -> Vec<(&Self::Row, Option<i64>)>;

    /// Keys of stored rows that are no more.
    fn removed(&self) -> Vec<<Self::Row as ViewRow>::Key>;
}

impl<R: ViewRow<Key = ()>> RowSet for Option<R> {
    type Row = R;
    const SINGLE: bool = true;

    fn load(&mut self, row: R) {
        *self = Some(row);
    }

    // One row is written at every event, so its version is the aggregate's.
    fn begin(&mut self, _: i64) {}

    fn written(&self) -> Vec<(&R, Option<i64>)> {
        self.iter().map(|row| (row, None)).collect()
    }

    // One row's absence shows in the `Option` itself; the writer deletes by the aggregate's id.
    fn removed(&self) -> Vec<()> {
        Vec::new()
    }
}

/// The rows that one aggregate owns, by key.
#[derive(Debug, Clone)]
pub struct Rows<R: ViewRow> {
    rows: BTreeMap<R::Key, R>,
    /// The event that touched a row last. A row's version must not hang on how many events came in one batch: a rebuild has
    /// other batches.
    touched: BTreeMap<R::Key, i64>,
    /// The event that is being applied.
    sequence: i64,
}

impl<R: ViewRow> Default for Rows<R> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            touched: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<R: ViewRow> Rows<R> {
    /// The row with this key.
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.rows.get(key)
    }

    /// The row with this key, to be changed; its key must stay as it is.
    pub fn get_mut(&mut self, key: &R::Key) -> Option<&mut R> {
        let row = self.rows.get_mut(key)?;
        self.touched.insert(key.clone(), self.sequence);
        Some(row)
    }

    /// Adds the row or puts it in the place of the one with its key.
    pub fn put(&mut self, row: R) {
        let key = row.key();
        self.touched.insert(key.clone(), self.sequence);
        self.rows.insert(key, row);
    }

    /// Removes the row with this key.
    pub fn remove(&mut self, key: &R::Key) -> Option<R> {
        let row = self.rows.remove(key)?;
        self.touched.insert(key.clone(), self.sequence);
        Some(row)
    }

    /// All rows, by key.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.rows.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True where the aggregate owns none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<R: ViewRow> RowSet for Rows<R> {
    type Row = R;
    const SINGLE: bool = false;

    fn load(&mut self, row: R) {
        self.rows.insert(row.key(), row);
    }

    fn begin(&mut self, sequence: i64) {
        self.sequence = sequence;
    }

    fn written(&self) -> Vec<(&R, Option<i64>)> {
        let row = |(key, sequence): (&R::Key, &i64)| Some((self.rows.get(key)?, Some(*sequence)));
        self.touched.iter().filter_map(row).collect()
    }

    fn removed(&self) -> Vec<R::Key> {
        self.touched
            .keys()
            .filter(|key| !self.rows.contains_key(key))
            .cloned()
            .collect()
    }
}

/// Declares a row that an aggregate owns: one each, or several that a `key` tells apart.
///
/// The struct's fields are columns of the table. The table has four more, filled by the sink: see
/// [`Fold`](crate::projection::Fold).
///
/// ```
/// millrace::view_row! {
///     /// An account.
///     pub struct AccountRow in "accounts" {
///         /// Who owns it.
///         owner: String,
///         /// What is on it.
///         balance_cents: i64,
///     }
/// }
/// millrace::view_row! {
///     /// A member of a workspace.
///     pub struct MemberRow in "members" {
///         key {
///             /// Who.
///             member_id: String,
///         }
///         /// What they may do.
///         role: String,
///     }
/// }
/// ```
#[macro_export]
macro_rules! view_row {
    (
        $(#[$meta:meta])*
        pub struct $name:ident in $table:literal {
            key { $( $(#[$key_meta:meta])* $key:ident : $key_type:ty ),+ $(,)? }
            $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$key_meta])* pub $key: $key_type, )+
            $( $(#[$field_meta])* pub $field: $type, )*
        }
        $crate::view_row!(@row $name, $table, [$($key: $key_type),+], [$($field: $type),*]);
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident in $table:literal {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )+
        }
        $crate::view_row!(@row $name, $table, [], [$($field: $type),+]);
    };
    (@row $name:ident, $table:literal, [$($key:ident : $key_type:ty),*], [$($field:ident : $type:ty),*]) => {
        #[allow(clippy::unused_unit, clippy::let_unit_value, reason = "a row without a key has the key `()`")]
        impl $crate::projection::ViewRow for $name {
            type Key = ($($key_type,)*);
            const TABLE: &'static str = $table;
            const KEY: &'static [&'static str] = &[$(stringify!($key)),*];
            const COLUMNS: &'static [$crate::projection::Column] = &[
                $( $crate::projection::Column {
                    name: stringify!($key),
                    pg_type: <$key_type as $crate::projection::ColumnType>::PG_TYPE,
                }, )*
                $( $crate::projection::Column {
                    name: stringify!($field),
                    pg_type: <$type as $crate::projection::ColumnType>::PG_TYPE,
                }, )*
            ];

            fn key(&self) -> Self::Key {
                ($(self.$key.clone(),)*)
            }

            fn bind(
                rows: &[&Self],
                arguments: &mut $crate::projection::sql::PgArguments,
            ) -> ::std::result::Result<(), $crate::projection::sql::BoxDynError> {
                use $crate::projection::sql::Arguments as _;
                $( arguments.add(rows.iter().map(|row| &row.$key).collect::<::std::vec::Vec<_>>())?; )*
                $( arguments.add(rows.iter().map(|row| &row.$field).collect::<::std::vec::Vec<_>>())?; )*
                ::std::result::Result::Ok(())
            }

            fn bind_key(
                key: &Self::Key,
                arguments: &mut $crate::projection::sql::PgArguments,
            ) -> ::std::result::Result<(), $crate::projection::sql::BoxDynError> {
                #[allow(unused_imports)]
                use $crate::projection::sql::Arguments as _;
                let ($($key,)*) = key;
                $( arguments.add($key)?; )*
                let _ = arguments;
                ::std::result::Result::Ok(())
            }

            fn read(
                row: &$crate::projection::sql::PgRow,
                first: usize,
            ) -> ::std::result::Result<Self, $crate::projection::sql::Error> {
                use $crate::projection::sql::Row as _;
                let mut column = first..;
                let mut next = || column.next().expect("an open range does not end");
                ::std::result::Result::Ok(Self {
                    $( $key: row.try_get(next())?, )*
                    $( $field: row.try_get(next())?, )*
                })
            }
        }
    };
}

/// Declares the row of a tally: a key, and numbers that are added up.
///
/// ```
/// millrace::tally_row! {
///     /// What came together on a day.
///     pub struct DailySum in "daily_sums" {
///         key {
///             /// Who.
///             day: String,
///         }
///         /// How much.
///         total_cents: i64,
///     }
/// }
/// ```
#[macro_export]
macro_rules! tally_row {
    (
        $(#[$meta:meta])*
        pub struct $name:ident in $table:literal {
            key { $( $(#[$key_meta:meta])* $key:ident : $key_type:ty ),+ $(,)? }
            $( $(#[$field_meta:meta])* $field:ident : $type:ty ),+ $(,)?
        }
    ) => {
        $crate::view_row! {
            $(#[$meta])*
            pub struct $name in $table {
                key { $( $(#[$key_meta])* $key : $key_type ),+ }
                $( $(#[$field_meta])* $field : $type ),+
            }
        }
        impl $crate::projection::TallyRow for $name {
            fn add(&mut self, other: &Self) -> ::std::option::Option<()> {
                $( self.$field = $crate::projection::Summand::sum(self.$field, other.$field)?; )+
                ::std::option::Option::Some(())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    #![allow(unreachable_pub, reason = "an author's row is public")]
    use super::*;

    crate::view_row! {
        /// A member.
        pub struct Member in "members" {
            key { member_id: String }
            role: String,
            since: Option<DateTime<Utc>>,
        }
    }

    #[test]
    fn a_row_knows_its_columns_and_their_types() {
        let columns: Vec<(&str, &str)> = Member::COLUMNS
            .iter()
            .map(|column| (column.name, column.pg_type))
            .collect();
        assert_eq!(
            columns,
            [
                ("member_id", "text"),
                ("role", "text"),
                ("since", "timestamp with time zone"),
            ]
        );
    }

    #[test]
    fn only_touched_rows_are_written_and_removed_ones_are_named() {
        let member = |id: &str| Member {
            member_id: id.to_owned(),
            role: "reader".to_owned(),
            since: None,
        };
        let mut rows = Rows::default();
        rows.load(member("a"));
        rows.load(member("b"));
        rows.load(member("c"));
        rows.begin(4);
        rows.get_mut(&("b".to_owned(),)).unwrap().role = "owner".to_owned();
        rows.begin(5);
        rows.remove(&("c".to_owned(),));
        let written = rows.written();
        assert_eq!(written.len(), 1);
        assert_eq!(
            (written[0].0.role.as_str(), written[0].1),
            ("owner", Some(4))
        );
        assert_eq!(rows.removed(), [("c".to_owned(),)]);
    }
}
