//! Check that Kafka authorizes ingest to write to the topics, before an event needs it.
//!
//! Kafka can answer a metadata request with the operations that the client is authorized for (KIP-430). librdkafka offers
//! this as `DescribeTopics`, which the crate rdkafka does not wrap. Brokers before 2.3 do not return them. Then no topic is
//! reported here, and the first event that Kafka rejects shows the problem.

use std::{
    ffi::{CStr, CString, c_int},
    marker::PhantomData,
    ptr::NonNull,
    slice,
    time::Duration,
};

use rdkafka::{
    ClientContext,
    bindings::{
        RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT, rd_kafka_AclOperation_t as Operation, rd_kafka_AdminOptions_destroy,
        rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_include_authorized_operations,
        rd_kafka_AdminOptions_set_request_timeout, rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics,
        rd_kafka_TopicCollection_destroy, rd_kafka_TopicCollection_of_topic_names,
        rd_kafka_TopicDescription_authorized_operations, rd_kafka_TopicDescription_name, rd_kafka_TopicDescription_t,
        rd_kafka_admin_op_t, rd_kafka_error_destroy, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy,
        rd_kafka_event_error, rd_kafka_event_type, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll,
        rd_kafka_queue_t,
    },
    client::Client,
    error::{IsError as _, RDKafkaErrorCode},
};

/// How long Kafka may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// The authorized operations are unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RightsError {
    #[error("the operations that Kafka authorizes could not be requested")]
    RequestFailed,
    #[error("Kafka does not return the operations that it authorizes: {0}")]
    NoAnswer(RDKafkaErrorCode),
}

/// An object of librdkafka with its destructor.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, RightsError> {
        NonNull::new(made).map(|made| Self(made, destroy)).ok_or(RightsError::RequestFailed)
    }

    fn ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    #[expect(unsafe_code, reason = "librdkafka's objects are destroyed by its own functions")]
    fn drop(&mut self) {
        // SAFETY: it was made by librdkafka for this destructor, is owned by `self` alone, and is destroyed only here.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}

/// A request to Kafka that is not answered yet.
pub(crate) struct RightsRequest<'c> {
    queue: Owned<rd_kafka_queue_t>,
    /// The client must outlive the request.
    client: PhantomData<&'c ()>,
}

#[expect(unsafe_code, reason = "raw pointers are not Send")]
// SAFETY: the queue is used by one thread at a time, and librdkafka's queues may be used by any.
unsafe impl Send for RightsRequest<'_> {}

/// Requests the operations that Kafka authorizes for these topics; does not wait for the answer.
///
/// # Errors
/// When the request cannot be made.
#[expect(
    unsafe_code,
    reason = "rdkafka does not wrap DescribeTopics, and no other request returns rights without using them"
)]
pub(crate) fn request<'c, C: ClientContext>(
    client: &'c Client<C>,
    names: &[String],
) -> Result<RightsRequest<'c>, RightsError> {
    let names = names.iter().map(|name| CString::new(name.as_str())).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|_| RightsError::RequestFailed)?;
    let mut texts: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let kafka = client.native_ptr();
    // SAFETY: `client` outlives everything that is created here. The texts are NUL-terminated, live until the end of the
    // function, and are copied. Everything that is created is checked for null and owned.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(kafka), rd_kafka_queue_destroy)?;
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned::new(rd_kafka_AdminOptions_new(kafka, operation), rd_kafka_AdminOptions_destroy)?;
        let (timeout, mut reason) = (c_int::try_from(TIMEOUT.as_millis()).unwrap_or(c_int::MAX), [0; 256]);
        let code = rd_kafka_AdminOptions_set_request_timeout(options.ptr(), timeout, reason.as_mut_ptr(), reason.len());
        let error = rd_kafka_AdminOptions_set_include_authorized_operations(options.ptr(), 1);
        let error = NonNull::new(error).map(|error| Owned(error, rd_kafka_error_destroy));
        if code.is_error() || error.is_some() {
            return Err(RightsError::RequestFailed);
        }
        let topics = rd_kafka_TopicCollection_of_topic_names(texts.as_mut_ptr(), texts.len());
        let topics = Owned::new(topics, rd_kafka_TopicCollection_destroy)?;
        rd_kafka_DescribeTopics(kafka, topics.ptr(), options.ptr(), queue.ptr());
        Ok(RightsRequest { queue, client: PhantomData })
    }
}

impl RightsRequest<'_> {
    /// The topics that the client is not authorized to write to; `None` until the answer arrives, within [`TIMEOUT`]. Kafka
    /// returns nothing about a missing or hidden topic.
    #[expect(unsafe_code, reason = "as for `request`")]
    pub(crate) fn answer(&self) -> Option<Result<Vec<String>, RightsError>> {
        // SAFETY: the queue is valid. The event is checked for null and owned; its result and everything in it belong to
        // it, and it is destroyed after all of them were read.
        unsafe {
            let event = Owned::new(rd_kafka_queue_poll(self.queue.ptr(), 0), rd_kafka_event_destroy).ok()?;
            let code = rd_kafka_event_error(event.ptr());
            if code.is_error() {
                return Some(Err(RightsError::NoAnswer(code.into())));
            }
            if rd_kafka_event_type(event.ptr()) != RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT {
                return Some(Err(RightsError::RequestFailed));
            }
            let mut count = 0;
            let result = rd_kafka_event_DescribeTopics_result(event.ptr());
            let described = rd_kafka_DescribeTopics_result_topics(result, &mut count);
            let described = if described.is_null() { &[] } else { slice::from_raw_parts(described, count) };
            Some(Ok(described.iter().filter_map(|topic| unwritable(*topic)).collect()))
        }
    }
}

/// The name of the topic, if the client is not authorized to write to it.
///
/// # Safety
/// The topic must belong to a valid result.
#[expect(unsafe_code, reason = "as for `request`")]
unsafe fn unwritable(topic: *const rd_kafka_TopicDescription_t) -> Option<String> {
    let mut count = 0;
    // SAFETY: the caller's topic is valid; its operations and its name are valid as long as it is.
    unsafe {
        let operations = rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        // Null if Kafka did not return them, which differs from an empty list.
        if operations.is_null() {
            return None;
        }
        if slice::from_raw_parts(operations, count).contains(&Operation::RD_KAFKA_ACL_OPERATION_WRITE) {
            return None;
        }
        let name = rd_kafka_TopicDescription_name(topic);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        ClientConfig,
        mocking::MockCluster,
        producer::{BaseProducer, DefaultProducerContext, Producer as _},
    };

    use super::*;

    #[test]
    fn a_cluster_without_an_answer_reports_no_missing_rights() {
        // The mock cluster has no controller, to which librdkafka sends the request.
        let cluster = MockCluster::new(1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer<_> = config.create_with_context(DefaultProducerContext).unwrap();
        assert_eq!(request(producer.client(), &["a\0b".to_owned()]).err(), Some(RightsError::RequestFailed));
        let rights = request(producer.client(), &["a".to_owned(), "b".to_owned()]).unwrap();
        let answer = (0..1_000).find_map(|_| {
            std::thread::sleep(TIMEOUT / 100);
            rights.answer()
        });
        assert_eq!(answer, Some(Err(RightsError::NoAnswer(RDKafkaErrorCode::OperationTimedOut))));
        // A request may be dropped before its answer, and the client after it.
        drop(request(producer.client(), &["a".to_owned()]).unwrap());
    }
}
