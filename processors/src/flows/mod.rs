//! How an order gets its goods, by the events of the aggregates alone:
//!
//! ```text
//! OrderPlaced ─[order-stock]─> ReserveStock to each product
//!     StockReserved ─[stock-order]─> RecordReservation ─> OrderProductReserved … OrderConfirmed with the last
//!     StockReservationRefused ─[stock-order]─> RecordShortage ─> OrderCancelled
//! OrderShipped ─[order-stock]─> ShipOutStock to each product
//! OrderCancelled ─[order-stock]─> ReleaseStock to each product
//! ```
//!
//! And what users hear:
//!
//! ```text
//! OrderPlaced, OrderShipped ─[order-recipient]─> RequestNotification ─> NotificationRequested … see `notifications`
//! PaymentReceived ─[payment-recipient]─> RequestNotification
//! UserRegistered ─[user-recipient]─> SetContact, RequestNotification;  UserUpdated ─> SetContact
//! ```
//!
//! and, where it is paid at the gateway, its money:
//!
//! ```text
//! OrderPaymentDue ─[order-payment]─> RequestPayment ─> PaymentRequested ─[payment-gateway]─> RecordCharge or RecordChargeFailure
//!     PaymentReceived ─[payment-order]─> RecordPayment ─> OrderConfirmed with the last of goods and money
//!     PaymentFailed ─[payment-order]─> RecordPaymentFailure ─> OrderCancelled
//! OrderPaymentWithdrawn ─[order-payment]─> CancelPayment ─> PaymentRefundRequested ─[payment-gateway]─> RecordRefund
//! ```
//!
//! With `orchestration` a saga says who does what when; see `producer::aggregates::order_saga`:
//!
//! ```text
//! OrderPaymentDue ─[order-saga]─> StartOrderSaga ─> OrderSagaStepBegun ─[saga-steps]─> commands to stock, payment and order
//!     their events ─[stock-saga, payment-saga, order-saga]─> RecordSagaFact ─> the next OrderSagaStepBegun … OrderSagaEnded
//! ```
//!
//! OrderPaid ─[order-sales]─> CountSale to the day's sales, whose digest is one event a day.
//!
//! A placed order that hears nothing is cancelled by its timer. A confirmed one is posted to a webhook, where one is set.
//!
//! Per order and product the commands follow the order's events: these have one key, and so have the commands. A release
//! never overtakes the reservation that it gives back.
//!
//! How the library acts on what is added to it:
//!
//! ```text
//! CardAddedToLibrary ─[card-profile]─> AnnounceCard to the curator's profile
//!     ProfileCardAnnounced ─[profile-recipient]─> RequestNotification to each follower
//! CollectionCreated ─[collection-profile]─> StartCollection to the owner's profile
//!     ProfileFirstCollectionStarted ─[profile-recipient]─> RequestNotification to the owner
//! CardAddedToLibrary, CardRemovedFromLibrary ─[card-published]─> CardListed, CardUnlisted on library.published
//! CollectionCreated ─[collection-published]─> CollectionOpened on library.published
//! ```
//!
//! Each of these is a group of its own: what one cannot handle stands in its own dead letters, and the others go on.

pub mod card_profile;
pub mod card_published;
pub mod collection_profile;
pub mod collection_published;
pub mod identity;
mod notices;
pub mod order_payment;
pub mod order_recipient;
pub mod order_saga;
pub mod order_sales;
pub mod order_stock;
pub mod order_webhook;
pub mod payment_gateway;
pub mod payment_order;
pub mod payment_recipient;
pub mod payment_saga;
pub mod profile_recipient;
pub mod saga_steps;
pub mod stock_order;
pub mod user_recipient;

pub use notices::Notices;
pub mod stock_saga;
