//! Pages of lists, newest first. Entries of the same time are ordered by their number, so that a cursor neither skips
//! nor repeats one of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::history::Page;

use super::Millis;

pub const DEFAULT_LIMIT: u32 = 100;
pub const MAX_LIMIT: u32 = 500;

/// The place of an entry in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub created_at: Millis,
    pub number: i64,
}

impl Position {
    /// After the newest entry.
    const NEWEST: Self = Self { created_at: Millis::MAX, number: i64::MAX };

    fn to_cursor(self) -> String {
        let bytes = [self.created_at.to_be_bytes(), self.number.to_be_bytes()].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor. `None` for a text that no page carried.
    pub fn from_cursor(cursor: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (created_at, number) = bytes.split_first_chunk()?;
        Some(Self {
            created_at: Millis::from_be_bytes(*created_at),
            number: i64::from_be_bytes(number.try_into().ok()?),
        })
    }
}

/// The entries that a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Only entries before this position.
    pub before: Position,
    limit: u32,
}

impl PageRequest {
    /// `limit` is clamped to 1 to [`MAX_LIMIT`]. With both, the older of cursor and `before_ts` counts.
    pub fn new(limit: Option<u32>, before_ts: Option<Millis>, cursor: Option<Position>) -> Self {
        // Nothing of this very time: it would need a number below all numbers.
        let before_ts = before_ts.map(|created_at| Position { created_at, number: i64::MIN });
        let before = [before_ts, cursor].into_iter().flatten().min();
        Self {
            before: before.unwrap_or(Position::NEWEST),
            limit: limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT),
        }
    }

    /// The rows to read: one more than the page holds, which shows whether another page follows.
    pub fn row_count(&self) -> u32 {
        self.limit + 1
    }

    /// Makes the page from at most [`row_count`](Self::row_count) rows.
    pub fn page<T>(&self, rows: Vec<(Position, T)>) -> Page<T> {
        let limit = self.limit as usize;
        let is_more = rows.len() > limit;
        let last = rows.get(limit.saturating_sub(1)).map(|(position, _)| *position);
        let next = last.filter(|_| is_more).map(Position::to_cursor);
        let items = rows.into_iter().take(limit).map(|(_, item)| item).collect();
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_back_and_noise_is_none_or_a_position(
            created_at: i64, number: i64, noise in ".{0,40}",
        ) {
            let position = Position { created_at, number };
            prop_assert_eq!(Position::from_cursor(&position.to_cursor()), Some(position));
            if let Some(read) = Position::from_cursor(&noise) {
                prop_assert_eq!(read.to_cursor(), noise);
            }
        }
    }

    #[test]
    fn the_limit_is_clamped() {
        for (limit, rows) in [(None, 101), (Some(0), 2), (Some(2), 3), (Some(u32::MAX), 501)] {
            assert_eq!(PageRequest::new(limit, None, None).row_count(), rows, "{limit:?}");
        }
    }
}
