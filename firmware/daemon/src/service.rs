//! What answers requests, whichever way they came.

use std::future::Future;
use tobj::Message;
use tokio::io::AsyncRead;

/// Answers requests. The same trait serves Unix sockets ([`ipc::serve`](crate::ipc::serve)) and the commlink.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// `from` is who asks, as authenticated by the transport: the name of a machine, or `operator:` and the operator's name.
    /// `literal` gives the bytes of [`Message::literal`] and then ends; what is not read is dropped. The answer has the
    /// request's ID ([`Message::reply`]).
    fn call(
        &self,
        from: &str,
        request: Message,
        literal: &mut (dyn AsyncRead + Send + Unpin),
    ) -> impl Future<Output = Message> + Send;
}

impl<S: Service> Service for std::sync::Arc<S> {
    async fn call(&self, from: &str, request: Message, literal: &mut (dyn AsyncRead + Send + Unpin)) -> Message {
        S::call(self, from, request, literal).await
    }
}
