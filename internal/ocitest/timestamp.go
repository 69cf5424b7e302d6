package ocitest

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// Object identifiers of time stamps (RFC 3161, RFC 5652, RFC 5816).
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidSigningCertV2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidECDSASHA256   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

type tstInfo struct {
	Version        int
	Policy         asn1.ObjectIdentifier
	MessageImprint struct {
		HashAlgorithm pkix.AlgorithmIdentifier
		HashedMessage []byte
	}
	SerialNumber *big.Int
	Time         time.Time `asn1:"generalized"`
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type signerInfo struct {
	Version int
	Issuer  struct {
		Name   asn1.RawValue
		Serial *big.Int
	}
	DigestAlgorithm    pkix.AlgorithmIdentifier
	Attributes         asn1.RawValue
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Signature          []byte
}

type signedData struct {
	Version          int
	DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content          struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}
	Certificates asn1.RawValue
	Signers      []signerInfo `asn1:"set"`
}

type timestampResponse struct {
	Status struct{ Status int }
	Token  struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}
}

// timestamp returns a response in which the holder of cert states that message existed at a time.
func timestamp(message []byte, at time.Time, cert *x509.Certificate, key *Key) ([]byte, error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	imprint := sha256.Sum256(message)
	info := tstInfo{Version: 1, Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, SerialNumber: big.NewInt(at.Unix()), Time: at.UTC().Truncate(time.Second)}
	info.MessageImprint.HashAlgorithm, info.MessageImprint.HashedMessage = sha, imprint[:]
	content, err := asn1.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encoding a time stamp: %w", err)
	}
	attributes, err := signedAttributes(content, at, cert)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(attributes)
	if err != nil {
		return nil, err
	}
	octets, err := asn1.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding a time stamp: %w", err)
	}
	signer := signerInfo{Version: 1, DigestAlgorithm: sha, SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSASHA256}, Signature: sig}
	signer.Issuer.Name, signer.Issuer.Serial = asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber
	signer.Attributes = implicit(attributes)
	data := signedData{Version: 3, DigestAlgorithms: []pkix.AlgorithmIdentifier{sha}, Certificates: tagged(cert.Raw), Signers: []signerInfo{signer}}
	data.Content.Type, data.Content.Content = oidTSTInfo, tagged(octets)
	encoded, err := asn1.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encoding a time stamp: %w", err)
	}
	var response timestampResponse
	response.Token.Type, response.Token.Content = oidSignedData, tagged(encoded)
	return asn1.Marshal(response)
}

// signedAttributes returns the set of attributes that is signed in place of the content (RFC 5652, section 5.4).
func signedAttributes(content []byte, at time.Time, cert *x509.Certificate) ([]byte, error) {
	sum, id := sha256.Sum256(content), sha256.Sum256(cert.Raw)
	var attributes []attribute
	for _, a := range []struct {
		oid   asn1.ObjectIdentifier
		value any
	}{
		{oidContentType, oidTSTInfo},
		{oidMessageDigest, sum[:]},
		{oidSigningTime, at.UTC()},
		{oidSigningCertV2, struct{ Certs []struct{ Hash []byte } }{[]struct{ Hash []byte }{{id[:]}}}},
	} {
		value, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, fmt.Errorf("encoding an attribute: %w", err)
		}
		attributes = append(attributes, attribute{a.oid, []asn1.RawValue{{FullBytes: value}}})
	}
	encoded, err := asn1.MarshalWithParams(attributes, "set")
	if err != nil {
		return nil, fmt.Errorf("encoding attributes: %w", err)
	}
	return encoded, nil
}

// tagged returns encoded as what is explicitly tagged [0].
func tagged(encoded []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: encoded}
}

// implicit returns an encoded set with the tag [0] in place of its own.
func implicit(set []byte) asn1.RawValue {
	changed := append([]byte{0xa0}, set[1:]...)
	return asn1.RawValue{FullBytes: changed}
}
