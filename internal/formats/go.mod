// Tests that what package report writes is what other people's readers and schemas of the formats expect. A module of its own, so that
// nothing of theirs is in the program's module.
module github.com/tidewaiter/tidewaiter/internal/formats

go 1.26.3

require (
	github.com/CycloneDX/cyclonedx-go v0.9.3
	github.com/openvex/go-vex v0.2.9
	github.com/owenrumney/go-sarif/v3 v3.2.3
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.2
	github.com/spdx/tools-golang v0.5.5
)

require (
	github.com/anchore/go-struct-converter v0.0.0-20221118182256-c68fdcfa2092 // indirect
	github.com/in-toto/attestation v1.2.0 // indirect
	github.com/kr/text v0.2.0 // indirect
	github.com/package-url/packageurl-go v0.1.7 // indirect
	github.com/xeipuuv/gojsonpointer v0.0.0-20180127040702-4e3ac2762d5f // indirect
	github.com/xeipuuv/gojsonreference v0.0.0-20180127040603-bd5ef7bd5415 // indirect
	github.com/xeipuuv/gojsonschema v1.2.0 // indirect
	golang.org/x/text v0.36.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
