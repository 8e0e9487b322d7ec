//! Where each reader stands, told to the driver without a queue.
//!
//! A reader moves far more often than anybody needs to know, and it may be dropped anywhere, also where nothing can
//! be awaited. So it writes into a cell of its own and rings one bell; the driver looks at the cells when it wakes.
//! Many moves between two looks count as one. Nothing here can fill up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// What the driver sees of one reader.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    at: AtomicU64,
    gone: AtomicBool,
}

impl Cursor {
    /// The blob offset below which everything was read.
    pub(crate) fn at(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }

    /// The reader was dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// The reader's end: dropping it is how a reader leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    cursor: Arc<Cursor>,
    bell: Arc<Notify>,
}

impl Seat {
    pub(crate) fn new(bell: Arc<Notify>) -> Self {
        Self {
            cursor: Arc::default(),
            bell,
        }
    }

    pub(crate) fn cursor(&self) -> Arc<Cursor> {
        Arc::clone(&self.cursor)
    }

    /// Moves the cursor; the bell rings only at a piece's border, since nobody decides anything in between.
    pub(crate) fn advance(&self, at: u64, piece_bytes: u64) {
        let before = self.cursor.at.swap(at, Ordering::AcqRel);
        if piece_bytes == 0 || before / piece_bytes != at / piece_bytes {
            self.bell.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.cursor.gone.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn many_moves_inside_a_piece_ring_no_bell() {
        let bell = Arc::new(Notify::new());
        let seat = Seat::new(Arc::clone(&bell));
        for at in 1..100 {
            seat.advance(at, 100);
        }
        let rung = timeout(Duration::ZERO, bell.notified()).await;
        assert!(rung.is_err(), "the bell rang inside a piece");
        seat.advance(100, 100);
        timeout(Duration::from_secs(5), bell.notified())
            .await
            .expect("the bell rings at a piece's border");
        assert_eq!(seat.cursor().at(), 100);
    }

    #[tokio::test]
    async fn dropped_seat_is_seen_as_gone() {
        let bell = Arc::new(Notify::new());
        let seat = Seat::new(Arc::clone(&bell));
        let cursor = seat.cursor();
        assert!(!cursor.is_gone());
        drop(seat);
        timeout(Duration::from_secs(5), bell.notified())
            .await
            .expect("the bell rings when a reader leaves");
        assert!(cursor.is_gone());
    }
}
