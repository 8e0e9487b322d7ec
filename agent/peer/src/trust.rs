//! The border: whose signatures count, and the checks that everything signed passes before the core or the store
//! sees it.
//!
//! An origin is vouched for by its membership alone, whoever brings it: a tracker, a peer, or the origin itself.
//! What was learned is kept in the store, so that a restarted member can check proofs before a tracker answers.
//!
//! Not here: handshakes (the link checks those), hashes of pieces (the store), and what a failed check costs its
//! sender (the core).

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use shoal_link::Credentials;
use shoal_proto::{
    BlobInfo, Membership, MembershipError, PeerId, PieceProof, ProofError, Role, SignedMembership,
    VouchedOrigins,
};

use crate::metrics::{self, CheckedAt};
use crate::store::Store;

/// Why something signed does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustError {
    /// The signature is not what the signer would have made. Whoever sent it is to blame.
    #[error("the signature is wrong: {0}")]
    Forged(ProofError),
    /// The signer is no origin that we know of. Nobody is to blame: a membership may be under way.
    #[error("signed by {}, which is no known origin", .0.short())]
    Unvouched(PeerId),
}

/// Why a membership does not make an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VouchError {
    #[error("the membership does not hold: {0}")]
    Membership(#[from] MembershipError),
    #[error("{} is no origin", .0.short())]
    NoOrigin(PeerId),
}

/// The origins that we believe.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Held for a look-up or an insert, never across an await.
    vouched: RwLock<VouchedOrigins>,
    credentials: Credentials,
    store: Store,
}

impl Trust {
    /// Starts with what the store remembers, as far as it still holds.
    pub(crate) fn new(credentials: Credentials, store: Store) -> Self {
        let trust = Self {
            vouched: RwLock::new(VouchedOrigins::default()),
            credentials,
            store,
        };
        let remembered = trust.store.vouched().unwrap_or_else(|error| {
            tracing::warn!(%error, "no remembered origins can be read");
            Vec::new()
        });
        for membership in remembered {
            if let Err(error) = trust.check_in(&membership) {
                tracing::debug!(%error, "a remembered origin does not count any more");
            }
        }
        trust
    }

    /// Believes an origin by its membership, and remembers it.
    pub(crate) fn vouch(&self, membership: &SignedMembership) -> Result<Membership, VouchError> {
        let (checked, new) = self.check_in(membership)?;
        if new && let Err(error) = self.store.put_vouched(membership) {
            tracing::warn!(%error, origin = %checked.peer.short(), "cannot remember an origin");
        }
        Ok(checked)
    }

    /// Whether the signatures of this peer count.
    pub(crate) fn is_vouched(&self, peer: &PeerId) -> bool {
        self.read().contains(peer)
    }

    /// What to show others, so that they can check the signatures of this origin.
    pub(crate) fn membership_of(&self, origin: &PeerId) -> Option<SignedMembership> {
        self.read().membership_of(origin).cloned()
    }

    /// A shape counts when a vouched origin signed it.
    pub(crate) fn check_info(&self, info: &BlobInfo) -> Result<(), TrustError> {
        if !self.is_vouched(&info.origin) {
            metrics::verify_failed(CheckedAt::Unvouched);
            return Err(TrustError::Unvouched(info.origin));
        }
        info.verify().map_err(|error| {
            metrics::verify_failed(CheckedAt::Info);
            TrustError::Forged(error)
        })
    }

    /// A proof counts when a vouched origin, any of them, signed it for this very blob and shape.
    pub(crate) fn check_proof(
        &self,
        proof: &PieceProof,
        info: &BlobInfo,
    ) -> Result<(), TrustError> {
        if !self.is_vouched(&proof.origin) {
            metrics::verify_failed(CheckedAt::Unvouched);
            return Err(TrustError::Unvouched(proof.origin));
        }
        proof.verify(info).map_err(|error| {
            metrics::verify_failed(CheckedAt::Proof);
            TrustError::Forged(error)
        })
    }

    fn check_in(&self, signed: &SignedMembership) -> Result<(Membership, bool), VouchError> {
        let membership = self.credentials.check(signed)?;
        if membership.role != Role::Origin {
            return Err(VouchError::NoOrigin(membership.peer));
        }
        let mut vouched = self.vouched.write().unwrap_or_else(PoisonError::into_inner);
        let new = vouched.insert_checked(&membership, signed.clone());
        Ok((membership, new))
    }

    fn read(&self) -> RwLockReadGuard<'_, VouchedOrigins> {
        self.vouched.read().unwrap_or_else(PoisonError::into_inner)
    }
}
