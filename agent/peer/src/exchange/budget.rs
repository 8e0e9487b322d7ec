//! How many bytes of payload may be in memory at once.
//!
//! Every buffer that holds payload, on its way from a link to the store or from the store to a client, holds a
//! [`Loan`] of as many bytes. Whoever finds the budget spent goes on with a small buffer instead of a large one,
//! so that a slow client or a stalled peer that sits on its loan can never bring the others to a halt.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that many may borrow from.
#[derive(Clone, Debug)]
pub(crate) struct ByteBudget {
    free: Arc<Semaphore>,
    total: u32,
}

/// Borrowed bytes, given back on drop.
#[derive(Debug)]
pub(crate) struct Loan {
    permit: OwnedSemaphorePermit,
}

impl Loan {
    /// Takes over another loan.
    pub(crate) fn merge(&mut self, other: Self) {
        self.permit.merge(other.permit);
    }

    /// Gives back all but so many bytes.
    pub(crate) fn cut_to(&mut self, bytes: usize) {
        drop(self.permit.split(self.bytes().saturating_sub(bytes)));
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits()
    }
}

impl ByteBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Borrows now or not at all.
    pub(crate) fn try_borrow(&self, bytes: usize) -> Option<Loan> {
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Loan { permit })
    }

    /// Waits in line for a small loan; one that is larger than the whole budget is cut to it.
    ///
    /// Cancel safe: a dropped wait leaves the line.
    pub(crate) async fn borrow(&self, bytes: usize) -> Option<Loan> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        let permit = Arc::clone(&self.free)
            .acquire_many_owned(bytes)
            .await
            .ok()?;
        Some(Loan { permit })
    }

    /// Bytes lent at the moment.
    pub(crate) fn lent(&self) -> usize {
        (self.total as usize).saturating_sub(self.free.available_permits())
    }
}

/// Ties a loan to the bytes it was taken for: given back when the last clone of the bytes is gone.
pub(crate) fn tie(bytes: Bytes, loan: Loan) -> Bytes {
    Bytes::from_owner(Tied { bytes, _loan: loan })
}

struct Tied {
    bytes: Bytes,
    _loan: Loan,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loan_comes_back_with_the_last_clone_of_the_bytes() {
        let budget = ByteBudget::new(10);
        let loan = budget.try_borrow(8).expect("the budget is whole");
        let bytes = tie(Bytes::from_static(b"12345678"), loan);
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(budget.lent(), 8);
        assert!(budget.try_borrow(3).is_none(), "lent twice");
        drop(slice);
        assert_eq!(budget.lent(), 0);
    }

    #[tokio::test]
    async fn loan_larger_than_the_budget_is_cut_to_it() {
        let budget = ByteBudget::new(10);
        let loan = budget.borrow(100).await.expect("the budget is open");
        assert_eq!(loan.bytes(), 10);
    }

    #[test]
    fn what_a_loan_is_cut_by_can_be_borrowed_by_others() {
        let budget = ByteBudget::new(10);
        let mut loan = budget.try_borrow(8).expect("the budget is whole");
        loan.cut_to(3);
        assert_eq!((loan.bytes(), budget.lent()), (3, 3));
        loan.cut_to(9);
        assert_eq!((loan.bytes(), budget.lent()), (3, 3));
    }
}
