#include "common/daemon/tls.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

template <typename T, void (*kFree)(T*)>
struct Freer {
  void operator()(T* pointer) const { kFree(pointer); }
};
using X509Pointer = std::unique_ptr<X509, Freer<X509, X509_free>>;
using KeyPointer = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;
using BioPointer = std::unique_ptr<BIO, Freer<BIO, BIO_free_all>>;

absl::StatusOr<BioPointer> OpenPem(const std::string& path) {
  BioPointer bio(BIO_new_file(path.c_str(), "r"));
  ERR_clear_error();
  if (bio == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return bio;
}

absl::StatusOr<X509Pointer> ReadCertificate(const std::string& path) {
  absl::StatusOr<BioPointer> bio = OpenPem(path);
  if (!bio.ok()) return bio.status();
  X509Pointer certificate(PEM_read_bio_X509(bio->get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no certificate in PEM"));
  }
  return certificate;
}

// Lets calls pass whose client's certificate has one of the names.
class AllowedNames : public grpc::AuthMetadataProcessor {
 public:
  explicit AllowedNames(std::vector<std::string> names) : names_(std::move(names)) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata&, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    std::string shown;
    for (const grpc::string_ref& name : context->FindPropertyValues(GRPC_X509_SAN_PROPERTY_NAME)) {
      const std::string text(name.data(), name.size());
      if (std::find(names_.begin(), names_.end(), text) != names_.end()) return grpc::Status::OK;
      if (shown.size() < 256) absl::StrAppend(&shown, shown.empty() ? "" : ", ", text);
    }
    return grpc::Status(
        grpc::StatusCode::PERMISSION_DENIED,
        absl::StrCat("this client is not among the allowed ones; its certificate names ",
                     shown.empty() ? "nobody" : shown));
  }

 private:
  const std::vector<std::string> names_;
};

std::shared_ptr<FileWatcherCertificateProvider> Watch(const TlsFiles& files) {
  return std::make_shared<FileWatcherCertificateProvider>(
      files.key, files.certificate, files.authorities,
      static_cast<unsigned int>(files.refresh_seconds));
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  absl::StatusOr<X509Pointer> certificate = ReadCertificate(files.certificate);
  if (!certificate.ok()) return certificate.status();
  if (absl::Status s = ReadCertificate(files.authorities).status(); !s.ok()) return s;
  absl::StatusOr<BioPointer> bio = OpenPem(files.key);
  if (!bio.ok()) return bio.status();
  // Without a terminal to ask, a key that is encrypted cannot be used.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  const KeyPointer key(PEM_read_bio_PrivateKey(bio->get(), nullptr, no_password, nullptr));
  const bool fits = key != nullptr && X509_check_private_key(certificate->get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(files.key, ": no unencrypted key in PEM"));
  }
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.key, ": is not the key of ", files.certificate));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MutualTlsServerCredentials(
    const TlsFiles& files, std::vector<std::string> allowed_names) {
  if (absl::Status s = CheckTlsFiles(files); !s.ok()) return s;
  grpc::experimental::TlsServerCredentialsOptions options(Watch(files));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(options);
  if (!allowed_names.empty()) {
    credentials->SetAuthMetadataProcessor(std::make_shared<AllowedNames>(std::move(allowed_names)));
  }
  return credentials;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MutualTlsChannelCredentials(
    const TlsFiles& files) {
  if (absl::Status s = CheckTlsFiles(files); !s.ok()) return s;
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace gguf_offload
