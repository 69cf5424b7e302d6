package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestStatementsConfiguration(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want string // part of what is said; empty when it is accepted
	}{
		"nothing":                {"{}", ""},
		"a file":                 {"{key_file: k, verifier: \"https://gate.example\"}", ""},
		"a service":              {"{kms: \"hashivault://own\", verifier: \"urn:gate\", failures: true}", ""},
		"both":                   {"{key_file: k, kms: \"hashivault://own\", verifier: \"https://gate.example\"}", "want one of key_file, kms"},
		"an unknown service":     {"{kms: \"evil://own\", verifier: \"https://gate.example\"}", "statements.kms"},
		"a key of nobody":        {"{key_file: k}", "statements.verifier"},
		"a verifier of no URI":   {"{key_file: k, verifier: gate}", "statements.verifier"},
		"a verifier without key": {"{verifier: \"https://gate.example\"}", "statements needs key_file or kms"},
		"failures without key":   {"{failures: true}", "statements needs key_file or kms"},
		"a key it has not":       {"{keyfile: k}", "keyfile"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, "statements: "+tt.text)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// A key that others may write, or that is none, is refused before anything is served.
func TestStatementKeys(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encoded := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, tt := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"a key":                     {encoded, 0o600, ""},
		"a key a group may read":    {encoded, 0o640, ""},
		"a key a group may write":   {encoded, 0o660, "others than its owner may write it"},
		"no key":                    {"key", 0o600, "one private key in PEM"},
		"more than is read of keys": {encoded + strings.Repeat("\n", maxStatementKeyBytes), 0o600, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, lenient)
			key := l.write(t, "own.key", tt.content)
			if err := os.Chmod(key, tt.mode); err != nil {
				t.Fatal(err)
			}
			config, err := os.ReadFile(l.config)
			if err != nil {
				t.Fatal(err)
			}
			l.write(t, "tidewaiter.yaml", fmt.Sprintf("%s\nstatements: {key_file: %q, verifier: \"https://gate.example\"}\n", config, key))
			_, err = loadInstallation(l.config)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), encoded[100:140]) {
				t.Error("it shows the key")
			}
		})
	}
}
