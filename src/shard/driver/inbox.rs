//! Inboxes: what crosses from one thread to a shard.
//!
//! A channel holds it, a waker tells of it. A shard that is awake is not woken: it looks at its inbox before it sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;

use crate::shard::ConnectionId;
use crate::tls::ServerConfig;

/// What control tells a shard.
#[derive(Debug)]
pub enum ControlOrder {
    /// The answer to a plain request: a whole HTTP response.
    Response {
        /// To whom.
        connection: ConnectionId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Serve new connections with these keys.
    Keys(Arc<ServerConfig>),
    /// Nothing but to look around: the application has news that did not come by the inbox.
    LookAround,
    /// Close everyone, then end.
    Drain,
}

/// The sending end of a shard's inbox, for any thread.
#[derive(Debug)]
pub struct Address<Mail> {
    mail: Sender<Mail>,
    orders: Sender<ControlOrder>,
    bell: Arc<Bell>,
}

/// The receiving end, for the shard.
#[derive(Debug)]
pub struct Inbox<Mail> {
    mail: Receiver<Mail>,
    orders: Receiver<ControlOrder>,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    waker: Waker,
    /// Whether the shard will look at its inbox before it sleeps.
    awake: AtomicBool,
}

/// An inbox with room for `capacity` pieces of mail from other shards and `orders` orders from control.
pub fn inbox<Mail>(capacity: usize, orders: usize, waker: Waker) -> (Address<Mail>, Inbox<Mail>) {
    let (mail_sender, mail) = bounded(capacity);
    let (order_sender, orders) = bounded(orders);
    let bell = Arc::new(Bell { waker, awake: AtomicBool::new(true) });
    let address = Address { mail: mail_sender, orders: order_sender, bell: Arc::clone(&bell) };
    (address, Inbox { mail, orders, bell })
}

impl<Mail> Clone for Address<Mail> {
    fn clone(&self) -> Self {
        Self { mail: self.mail.clone(), orders: self.orders.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<Mail> Address<Mail> {
    /// Whether mail would be refused.
    pub fn is_full(&self) -> bool {
        self.mail.is_full()
    }

    /// Sends mail, and wakes the shard if it sleeps.
    ///
    /// # Errors
    /// The mail, when there is no room for it or the shard has ended.
    pub fn send(&self, mail: Mail) -> Result<(), Mail> {
        match self.mail.try_send(mail) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => Err(mail),
        }
    }

    /// Gives an order, and wakes the shard if it sleeps.
    ///
    /// # Errors
    /// The order, when there is no room for it or the shard has ended.
    pub fn order(&self, order: ControlOrder) -> Result<(), ControlOrder> {
        match self.orders.try_send(order) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => Err(order),
        }
    }
}

impl<Mail> Inbox<Mail> {
    /// The next piece of mail, if there is one.
    pub fn next_mail(&self) -> Option<Mail> {
        self.mail.try_recv().ok()
    }

    /// The next order, if there is one.
    pub fn next_order(&self) -> Option<ControlOrder> {
        self.orders.try_recv().ok()
    }

    /// Pieces of mail and orders that wait.
    pub fn depth(&self) -> usize {
        self.mail.len() + self.orders.len()
    }

    /// The shard is about to sleep: from now on it is woken. False when something came in before; then it must not.
    pub fn fall_asleep(&self) -> bool {
        // Sequentially consistent, as in `ring`: either the sender sees that we sleep, or we see what it sent.
        self.bell.awake.store(false, Ordering::SeqCst);
        if self.depth() == 0 {
            return true;
        }
        self.wake_up();
        false
    }

    /// The shard is awake, and will look at its inbox before it sleeps.
    pub fn wake_up(&self) {
        self.bell.awake.store(true, Ordering::SeqCst);
    }
}

impl Bell {
    fn ring(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            // The eventfd's counter cannot overflow by our writes, and its descriptor lives until the process ends.
            let _ = self.waker.wake();
        }
    }
}
