package notify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// Limits of a file of secrets. While one is being replaced there are two.
const (
	maxSecretFileBytes = 4 << 10
	maxSecrets         = 4
	// What the specification asks for, in bytes (Standard Webhooks, signature scheme).
	minSecretBytes, maxSecretBytes = 24, 64
)

// secretPrefix stands in front of a secret, so that it is known for one wherever it turns up.
const secretPrefix = "whsec_"

// errSecret says that a file holds no secret. The file's content is not repeated.
var errSecret = errors.New("a line is not " + secretPrefix + " and base64 of 24 to 64 bytes")

// readSecrets returns the secrets in the file called name, at least one.
func readSecrets(name string) ([][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := oci.ReadBounded(f, maxSecretFileBytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	secrets, err := parseSecrets(content)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return secrets, nil
}

func parseSecrets(content []byte) (secrets [][]byte, err error) {
	for line := range bytes.Lines(content) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		encoded, ok := strings.CutPrefix(string(line), secretPrefix)
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(secret) < minSecretBytes || len(secret) > maxSecretBytes {
			return nil, errSecret
		}
		secrets = append(secrets, secret)
	}
	switch {
	case len(secrets) == 0:
		return nil, errors.New("there is no secret in it")
	case len(secrets) > maxSecrets:
		return nil, fmt.Errorf("there are more than %d secrets in it", maxSecrets)
	}
	return secrets, nil
}

// signature returns what webhook-signature says of an attempt: one mark for each secret, over id, time and body (Standard Webhooks 1.0,
// signature scheme).
func signature(secrets [][]byte, id string, at time.Time, body []byte) string {
	var marks []string
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		_, _ = fmt.Fprintf(mac, "%s.%s.", id, strconv.FormatInt(at.Unix(), 10)) // a hash never fails
		_, _ = mac.Write(body)
		marks = append(marks, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(marks, " ")
}
