// Package seal owns the mark by which Tidewaiter knows its own words again when they come back from a place others can write to.
//
// A sealed value carries an HMAC-SHA256 over its context, which says what it is and where it lies, and over itself. It promises
// that [Key.Open] returns only what was sealed with the same key for the very same context, so that a value can be neither altered
// nor moved. It does not hide what it seals, nor does it know whether a value that was once sealed is still the newest.
package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrBroken says that a value was not sealed with this key for this context, or was altered since.
var ErrBroken = errors.New("the seal is broken")

// ErrWeakKey says that a secret is too short or too regular to be a key.
var ErrWeakKey = errors.New("not a key of at least 32 random bytes")

// MinKeyBytes is the least a secret may hold: a shorter one would be the weakest part of the seal.
const MinKeyBytes = 32

// version starts every sealed value and goes into its mark, so that a later form cannot be taken for this one.
const version = "tws1"

// headerBytes is what a seal adds to a value: the version, then the mark.
const headerBytes = len(version) + sha256.Size

// Key seals and opens. It comes from [NewKey], [LoadKey], [CreateKey] or [Key.Derive]. The zero Key opens nothing and must not
// seal. It is safe for concurrent use, and prints as a placeholder.
type Key struct {
	// secret is 32 bytes derived from what the operator gave; nil in the zero Key. It is never modified.
	secret []byte
}

// NewKey returns the key made from secret, of which it keeps no reference.
//
// Errors: [ErrWeakKey].
func NewKey(secret []byte) (Key, error) {
	if len(secret) < MinKeyBytes {
		return Key{}, fmt.Errorf("%d bytes: %w", len(secret), ErrWeakKey)
	}
	if repeats(secret) {
		return Key{}, fmt.Errorf("one byte repeated: %w", ErrWeakKey)
	}
	derived, err := hkdf.Extract(sha256.New, secret, []byte("tidewaiter seal 1"))
	if err != nil {
		return Key{}, fmt.Errorf("deriving a key: %w", err)
	}
	return Key{secret: derived}, nil
}

// repeats reports whether all bytes are the same: a file of zeros is what a key file becomes when making it goes wrong.
func repeats(secret []byte) bool {
	for _, b := range secret {
		if b != secret[0] {
			return false
		}
	}
	return true
}

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k.secret == nil }

// Derive returns a key of its own for purpose. Values sealed with one do not open with any other, whatever their contexts. It
// panics when k is the zero Key.
func (k Key) Derive(purpose string) Key {
	k.mustCount()
	derived, err := hkdf.Expand(sha256.New, k.secret, "purpose "+purpose, sha256.Size)
	if err != nil {
		panic("seal: " + err.Error()) // hkdf refuses only lengths, and this one is fixed
	}
	return Key{secret: derived}
}

// Seal returns value, sealed for context. It panics when k is the zero Key: what it sealed could never be opened.
func (k Key) Seal(context string, value []byte) []byte {
	k.mustCount()
	sealed := make([]byte, 0, headerBytes+len(value))
	sealed = append(sealed, version...)
	sealed = k.appendMark(sealed, context, value)
	return append(sealed, value...)
}

// Open returns the value that was sealed for context. It shares memory with sealed.
//
// Errors: [ErrBroken].
func (k Key) Open(context string, sealed []byte) ([]byte, error) {
	if k.IsZero() || len(sealed) < headerBytes || string(sealed[:len(version)]) != version {
		return nil, ErrBroken
	}
	value := sealed[headerBytes:]
	if !hmac.Equal(sealed[len(version):headerBytes], k.appendMark(nil, context, value)) {
		return nil, ErrBroken
	}
	return value, nil
}

// Mark returns the mark alone: what a value is known by that is kept apart from it, such as a line of a file people read. It is 32
// bytes, to be compared by hmac.Equal. It panics when k is the zero Key.
func (k Key) Mark(context string, value []byte) []byte {
	k.mustCount()
	return k.appendMark(nil, context, value)
}

// appendMark appends the HMAC of context and value. The length of the context goes first, so no byte can pass from one to the other.
func (k Key) appendMark(dst []byte, context string, value []byte) []byte {
	mac := hmac.New(sha256.New, k.secret)
	prefix := binary.BigEndian.AppendUint64([]byte(version), uint64(len(context)))
	_, _ = mac.Write(append(prefix, context...)) // a hash never fails
	_, _ = mac.Write(value)
	return mac.Sum(dst)
}

func (k Key) mustCount() {
	if k.IsZero() {
		panic("seal: the zero Key cannot seal")
	}
}

// Format implements fmt.Formatter, so that no verb prints the secret.
func (k Key) Format(s fmt.State, _ rune) { _, _ = fmt.Fprint(s, "seal.Key(…)") }
