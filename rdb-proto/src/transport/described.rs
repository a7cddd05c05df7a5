//! The methods of every service that a server of ours has, as their descriptors say. For tests.

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Calls `check` with the path of each, whether its requests are a stream, the message that it takes, and the one it returns.
pub(super) fn methods(mut check: impl FnMut(&str, bool, &DescriptorProto, &DescriptorProto)) {
    for set in [
        crate::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        let set = FileDescriptorSet::decode(set).expect("compiled in");
        let message = |name: &str| {
            let named = |message: &&DescriptorProto, package: &str| {
                name == format!(".{package}.{}", message.name())
            };
            let mut files = set.file.iter();
            let found = files.find_map(|file| {
                let mut messages = file.message_type.iter();
                messages.find(|message| named(message, file.package()))
            });
            found.unwrap_or_else(|| panic!("{name} is in no file"))
        };
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let (input, output) = (method.input_type(), method.output_type());
                    check(
                        &path,
                        method.client_streaming(),
                        message(input),
                        message(output),
                    );
                }
            }
        }
    }
}
