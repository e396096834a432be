//! No receipt, no forward: the values that carry promise P1.
//!
//! [`Session::record`] swallows an event and gives a [`Ticket`]. The bytes of a stream event come back only inside the
//! [`Receipt`] that the ticket resolves to, once the journal holds them as the durability asks. Whoever wants to forward
//! has nothing to forward until then.

use bytes::Bytes;

use crate::error::Frozen;
use crate::session::{Session, Watermark};

/// Proof that an event was accepted by the recorder; holds the recorded bytes. Made only by [`Ticket::receipt`].
#[must_use = "a receipt is what allows forwarding; without it nothing goes on"]
#[derive(Debug)]
pub struct Receipt {
    bytes: Bytes,
}

impl Receipt {
    /// Gives the recorded bytes up for forwarding: those of [`Event::wire_bytes`], and of what
    /// [`Session::record_eliding`] left out of the record, whose digest is in it instead.
    ///
    /// [`Event::wire_bytes`]: crate::transcript::event::Event::wire_bytes
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Returns how many bytes the receipt allows to forward.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to forward.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The promise of a [`Receipt`]: an event that is on its way into the journal.
#[must_use = "the event is recorded, but nothing may be forwarded before the ticket's receipt"]
#[derive(Debug)]
pub struct Ticket {
    session: Session,
    number: u64,
    watermark: Watermark,
    bytes: Bytes,
}

impl Ticket {
    pub(crate) fn new(session: Session, number: u64, watermark: Watermark, bytes: Bytes) -> Self {
        Self { session, number, watermark, bytes }
    }

    /// Returns how many bytes wait for the receipt.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the event carries nothing that could go on.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether [`Ticket::receipt`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.session.reached(self.watermark, self.number)
    }

    /// Waits until [`Ticket::receipt`] returns at once. Cancel-safe: nothing is lost with the future.
    ///
    /// # Errors
    /// Recording cannot go on.
    pub async fn settled(&self) -> Result<(), Frozen> {
        self.session.wait(self.watermark, self.number).await
    }

    /// Waits until the journal holds the event as the durability asks.
    ///
    /// Cancel-safe in this sense: dropping the future loses the bytes for forwarding, never for the record.
    ///
    /// # Errors
    /// Recording cannot go on; the event may or may not be on disk, and nothing may be forwarded.
    pub async fn receipt(self) -> Result<Receipt, Frozen> {
        self.session.wait(self.watermark, self.number).await?;
        Ok(Receipt { bytes: self.bytes })
    }
}
