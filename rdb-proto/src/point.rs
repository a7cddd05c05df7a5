//! Point commands: the requests for one key. Each is a unary RPC and a command of a `kvrpc.KvBatch` stream.
//!
//! `docs/architecture.md` has the recipe for one more.

use bytes::Bytes;
use tonic::Status;

use crate::kvrpc::batch_answer::Response;
use crate::kvrpc::batch_command::Request;
use crate::kvrpc::{
    self, compare_and_delete_response as deletion, compare_and_swap_response as swap,
};
use crate::metapb::Context;
use crate::response::DataResponse;

/// The table of point commands. Calls the macro `$with` with one row per command: its name among the commands of a stream, its
/// request and its response, and in braces the right that its caller needs and the method that sends it as a unary call.
/// `$arguments` come before the rows.
///
/// The right is a [`Permission`](crate::auth::Permission), which also says whether the command reads or writes, in a
/// [`Keyspace`](crate::auth::Keyspace). Stores and clients count the command under the name of the method.
#[macro_export]
macro_rules! point_commands {
    ($with:path $(, $($arguments:tt)*)?) => {
        $with! {
            $($($arguments)*)?
            RawPut(RawPutRequest -> RawPutResponse) { Write Raw, KvRawClient::raw_put }
            RawGet(RawGetRequest -> RawGetResponse) { Read Raw, KvRawClient::raw_get }
            RawDelete(RawDeleteRequest -> RawDeleteResponse) { Write Raw, KvRawClient::raw_delete }
            CompareAndSwap(CompareAndSwapRequest -> CompareAndSwapResponse) { Write Versioned, KvCasClient::compare_and_swap }
            Get(GetRequest -> GetResponse) { Read Versioned, KvCasClient::get }
            CompareAndDelete(CompareAndDeleteRequest -> CompareAndDeleteResponse) { Write Versioned, KvCasClient::compare_and_delete }
        }
    };
}

/// The methods that serve point commands as unary calls, for the `impl` of `KvRaw` or `KvCas`. Each does the same: it
/// resolves `$serve`, a future, to its response.
#[macro_export]
macro_rules! point_methods {
    ($server:ident, |$service:ident, $request:ident| $serve:expr) => {
        $crate::point_commands!($crate::point_methods, @rows $server |$service, $request| $serve;);
    };
    (@rows $server:ident |$service:ident, $request:ident| $serve:expr;
     $($command:ident($message:ident -> $response:ident) { $access:ident $keyspace:ident, $client:ident::$method:ident })*) => {$(
        $crate::point_methods! {
            @row $server $client
            fn $method<'service, 'call>(
                &'service self,
                $request: ::tonic::Request<$crate::kvrpc::$message>,
            ) -> ::std::pin::Pin<Box<
                dyn Future<Output = Result<::tonic::Response<$crate::kvrpc::$response>, ::tonic::Status>> + Send + 'call,
            >>
            where
                'service: 'call,
                Self: 'call,
            {
                let $service = self;
                Box::pin($serve)
            }
        }
    )*};
    (@row KvRaw KvRawClient $($method:tt)*) => { $($method)* };
    (@row KvCas KvCasClient $($method:tt)*) => { $($method)* };
    (@row $server:ident $client:ident $($method:tt)*) => {};
}

macro_rules! conversions {
    ($($command:ident($request:ident -> $response:ident) $call:tt)*) => {
        impl Request {
            /// The key that the command is about.
            pub fn key(&self) -> &Bytes {
                match self {
                    $(Self::$command(request) => &request.key,)*
                }
            }

            /// The context of the request, which a command of a stream does not have.
            pub fn context(&self) -> Option<&Context> {
                match self {
                    $(Self::$command(request) => request.context.as_ref(),)*
                }
            }
        }

        $(
            impl From<kvrpc::$request> for Request {
                fn from(request: kvrpc::$request) -> Self {
                    Self::$command(request)
                }
            }

            /// The response of a unary call, from the answer that a stream would have got.
            impl TryFrom<Response> for kvrpc::$response {
                type Error = Status;

                fn try_from(response: Response) -> Result<Self, Status> {
                    match response {
                        Response::$command(response) => Ok(response),
                        Response::RegionError(region_error) => Ok(Self::misrouted(region_error)),
                        Response::Fault(fault) => Err(Status::from(*fault)),
                        _ => Err(Status::internal("the answer is that of another command")),
                    }
                }
            }
        )*
    };
}

point_commands!(conversions);

impl Response {
    /// The value that the answer carries, if it has one.
    pub fn value_mut(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::RawGet(found) => found.value.as_mut(),
            Self::Get(found) => found.entry.as_mut().map(|entry| &mut entry.value),
            Self::CompareAndSwap(answer) => match &mut answer.result {
                Some(swap::Result::Conflict(conflict)) => conflict.current_value.as_mut(),
                Some(swap::Result::Swapped(_)) | None => None,
            },
            Self::CompareAndDelete(answer) => match &mut answer.result {
                Some(deletion::Result::Conflict(conflict)) => conflict.current_value.as_mut(),
                Some(deletion::Result::Deleted(_)) | None => None,
            },
            Self::RawPut(_) | Self::RawDelete(_) | Self::RegionError(_) | Self::Fault(_) => None,
        }
    }

    /// Whether the command changed nothing because the version was another.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::CompareAndSwap(answer) => {
                matches!(answer.result, Some(swap::Result::Conflict(_)))
            }
            Self::CompareAndDelete(answer) => {
                matches!(answer.result, Some(deletion::Result::Conflict(_)))
            }
            Self::RawPut(_)
            | Self::RawGet(_)
            | Self::RawDelete(_)
            | Self::Get(_)
            | Self::RegionError(_)
            | Self::Fault(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use tonic::Code;

    use super::*;
    use crate::FILE_DESCRIPTOR_SET;
    use crate::error::Fault;
    use crate::errorpb::{NotReady, region_error::Kind};
    use crate::kvrpc::*;

    macro_rules! rows {
        ($($command:ident($request:ident -> $response:ident) { $access:ident $keyspace:ident, $client:ident::$method:ident })*) => {
            const ROWS: &[(&str, &str, &str)] =
                &[$((stringify!($method), stringify!($request), stringify!($response))),*];

            /// An empty request of each row.
            fn requests() -> Vec<Request> {
                vec![$(Request::$command($request::default())),*]
            }
        };
    }
    point_commands!(rows);

    /// The fields of a message's oneof, by number: name and type.
    fn oneof_fields<'a>(message: &'a DescriptorProto, oneof: &str) -> Vec<(i32, &'a str, &'a str)> {
        let oneofs = message.oneof_decl.iter();
        let index = oneofs
            .map(|oneof| oneof.name())
            .position(|name| name == oneof);
        let fields = message.field.iter();
        let fields = fields.filter(|field| {
            field
                .oneof_index
                .and_then(|index| usize::try_from(index).ok())
                == index
        });
        let field_type = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
        fields
            .map(|field| (field.number(), field.name(), field_type(field.type_name())))
            .collect()
    }

    #[test]
    fn every_command_of_a_stream_has_a_row_a_response_of_its_number_and_an_rpc() {
        let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("well formed");
        let kvrpc = descriptors
            .file
            .iter()
            .find(|file| file.package() == "kvrpc");
        let kvrpc = kvrpc.expect("the file is compiled");
        let fields = |message: &str, oneof| {
            let mut messages = kvrpc.message_type.iter();
            let found = messages.find(|found| found.name() == message);
            oneof_fields(found.expect("the message is in the file"), oneof)
        };
        let requests = fields("BatchCommand", "request");
        let mut responses = fields("BatchAnswer", "response");
        responses.retain(|(_, name, _)| !["region_error", "fault"].contains(name));
        assert_eq!(requests.len(), responses.len());
        let numbers = |fields: &[(i32, &str, &str)]| -> Vec<(i32, String)> {
            fields
                .iter()
                .map(|(number, name, _)| (*number, (*name).to_owned()))
                .collect()
        };
        assert_eq!(numbers(&requests), numbers(&responses));

        let declared = requests.iter().zip(&responses);
        let declared: Vec<_> = declared
            .map(|(&(_, name, request), &(.., response))| (name, request, response))
            .collect();
        assert_eq!(declared, ROWS);
        let methods = || kvrpc.service.iter().flat_map(|service| &service.method);
        for (name, request, response) in ROWS {
            let is_rpc = methods().any(|method| {
                method.name().to_lowercase() == name.replace('_', "")
                    && method.input_type() == format!(".kvrpc.{request}")
                    && method.output_type() == format!(".kvrpc.{response}")
            });
            assert!(is_rpc, "{name}");
        }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
    }

    fn request() -> impl Strategy<Value = Request> {
        let kinds = prop::sample::select(requests());
        let parts = (kinds, bytes(), bytes(), any::<u64>());
        parts.prop_map(|(kind, key, value, expected_version)| {
            let context = None;
            match kind {
                Request::RawPut(_) => RawPutRequest {
                    context,
                    key,
                    value,
                }
                .into(),
                Request::RawGet(_) => RawGetRequest { context, key }.into(),
                Request::RawDelete(_) => RawDeleteRequest { context, key }.into(),
                Request::CompareAndSwap(_) => CompareAndSwapRequest {
                    context,
                    key,
                    expected_version,
                    value,
                }
                .into(),
                Request::Get(_) => GetRequest { context, key }.into(),
                Request::CompareAndDelete(_) => CompareAndDeleteRequest {
                    context,
                    key,
                    expected_version,
                }
                .into(),
            }
        })
    }

    proptest! {
        #[test]
        fn a_request_survives_the_stream(request in request(), id in any::<u64>()) {
            let sent = BatchCommand { id, request: Some(request.clone()), ..BatchCommand::default() };
            let received = BatchCommand::decode(sent.encode_to_vec().as_slice()).expect("well formed");
            let received = received.request.expect("it has one");
            prop_assert_eq!(received.key(), request.key());
            prop_assert_eq!(received, request);
        }
    }

    /// An answer of each kind that carries a value, and one of each that does not.
    fn answers() -> (Vec<Response>, Vec<Response>) {
        let value = Bytes::from_static(b"value");
        let conflict = || Conflict {
            current_value: Some(value.clone()),
            ..Conflict::default()
        };
        let with_value = vec![
            Response::RawGet(RawGetResponse {
                value: Some(value.clone()),
                ..Default::default()
            }),
            Response::Get(GetResponse {
                entry: Some(Versioned {
                    version: 1,
                    value: value.clone(),
                }),
                ..Default::default()
            }),
            Response::CompareAndSwap(CompareAndSwapResponse {
                result: Some(swap::Result::Conflict(conflict())),
                ..Default::default()
            }),
            Response::CompareAndDelete(CompareAndDeleteResponse {
                result: Some(deletion::Result::Conflict(conflict())),
                ..Default::default()
            }),
        ];
        let without = vec![
            Response::RawPut(RawPutResponse::default()),
            Response::RawDelete(RawDeleteResponse::default()),
            Response::RawGet(RawGetResponse::default()),
            Response::Get(GetResponse::default()),
            Response::CompareAndSwap(CompareAndSwapResponse {
                result: Some(swap::Result::Swapped(Swapped { version: 1 })),
                ..Default::default()
            }),
            Response::CompareAndDelete(CompareAndDeleteResponse {
                result: Some(deletion::Result::Deleted(Deleted {})),
                ..Default::default()
            }),
        ];
        (with_value, without)
    }

    #[test]
    fn the_value_of_an_answer_is_found_wherever_it_stands() {
        let (with_value, without) = answers();
        for mut answer in with_value {
            let value = answer.value_mut().expect("it has one");
            assert_eq!(*value, "value");
        }
        for mut answer in without {
            assert_eq!(answer.value_mut(), None);
        }
    }

    #[test]
    fn only_another_version_is_a_conflict() {
        let (with_value, without) = answers();
        for answer in with_value {
            let is_found = matches!(answer, Response::RawGet(_) | Response::Get(_));
            assert_eq!(answer.is_conflict(), !is_found, "{answer:?}");
        }
        for answer in without {
            assert!(!answer.is_conflict(), "{answer:?}");
        }
    }

    #[test]
    fn a_call_of_its_own_gets_what_the_stream_answers() {
        let region_error = || Box::new(Kind::NotReady(NotReady::default()).into());
        let misrouted = RawGetResponse::try_from(Response::RegionError(region_error()));
        let misrouted = misrouted.expect("a routing answer is a response");
        assert_eq!(misrouted.region_error, Some(region_error()));
        let fault = Fault::invalid_argument("key", Some(8192), "the key is too long");
        let failed = RawGetResponse::try_from(Response::Fault(Box::new(fault.into())));
        assert_eq!(failed.expect_err("a status").code(), Code::InvalidArgument);

        macro_rules! each_answers_its_own {
            ($($command:ident($request:ident -> $response:ident) $call:tt)*) => {$(
                let own = Response::$command($response::default());
                assert!($response::try_from(own).is_ok());
                let foreign = match stringify!($command) {
                    "RawPut" => Response::RawGet(RawGetResponse::default()),
                    _ => Response::RawPut(RawPutResponse::default()),
                };
                let refused = $response::try_from(foreign).expect_err("another command's");
                assert_eq!(refused.code(), Code::Internal);
            )*};
        }
        point_commands!(each_answers_its_own);
    }
}
