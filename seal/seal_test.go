package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/seal"
)

func newKey(t testing.TB, first byte) seal.Key {
	t.Helper()
	secret := make([]byte, seal.MinKeyBytes)
	for i := range secret {
		secret[i] = first + byte(i)
	}
	key, err := seal.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	key := newKey(t, 1)
	for _, value := range [][]byte{nil, {0}, []byte("a value"), bytes.Repeat([]byte{0xff}, 1<<16)} {
		for _, context := range []string{"", "a", "/a/path", strings.Repeat("x", 1000)} {
			got, err := key.Open(context, key.Seal(context, value))
			if err != nil || !bytes.Equal(got, value) {
				t.Errorf("Open(%.10q) of %d sealed bytes: got %d bytes, %v", context, len(value), len(got), err)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	key := newKey(t, 1)
	const context, value = "/verdicts/a", "allow"
	sealed := key.Seal(context, []byte(value))
	// altered returns sealed after change; each case changes its own copy.
	altered := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(sealed)) }
	tests := []struct {
		name    string
		key     seal.Key
		context string
		sealed  []byte
	}{
		{"another context", key, "/verdicts/b", sealed},
		{"an empty context", key, "", sealed},
		{"another key", newKey(t, 2), context, sealed},
		{"a key derived from it", key.Derive("ledger"), context, sealed},
		{"the zero key", seal.Key{}, context, sealed},
		{"nothing", key, context, nil},
		{"the bare value", key, context, []byte(value)},
		{"less than a mark", key, context, sealed[:20]},
		{"a mark without its value", key, context, sealed[:len(sealed)-len(value)]},
		{"a shorter value", key, context, sealed[:len(sealed)-1]},
		{"a longer value", key, context, altered(func(b []byte) []byte { return append(b, 'x') })},
		{"another version", key, context, altered(func(b []byte) []byte { b[3]++; return b })},
		{"another mark", key, context, altered(func(b []byte) []byte { b[4] ^= 1; return b })},
		{"another value", key, context, altered(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.key.Open(tt.context, tt.sealed)
			if !errors.Is(err, seal.ErrBroken) || got != nil {
				t.Errorf("Open: got %q, %v, want ErrBroken", got, err)
			}
		})
	}
}

func TestEveryBitCounts(t *testing.T) {
	key := newKey(t, 1)
	sealed := key.Seal("context", []byte("value"))
	for i := range len(sealed) * 8 {
		altered := bytes.Clone(sealed)
		altered[i/8] ^= 1 << (i % 8)
		if got, err := key.Open("context", altered); !errors.Is(err, seal.ErrBroken) {
			t.Errorf("bit %d flipped: got %q, %v, want ErrBroken", i, got, err)
		}
	}
}

func TestBytesDoNotPassBetweenContextAndValue(t *testing.T) {
	key := newKey(t, 1)
	const both = "ab/cd"
	for i := range len(both) + 1 {
		for j := range len(both) + 1 {
			if i == j {
				continue
			}
			sealed := key.Seal(both[:i], []byte(both[i:]))
			moved := append(bytes.Clone(sealed[:len(sealed)-len(both[i:])]), both[j:]...)
			if _, err := key.Open(both[:j], moved); !errors.Is(err, seal.ErrBroken) {
				t.Errorf("sealed as %q + %q, opened as %q + %q: got %v, want ErrBroken", both[:i], both[i:], both[:j], both[j:], err)
			}
		}
	}
}

func TestPurposesAreKeysOfTheirOwn(t *testing.T) {
	key := newKey(t, 1)
	purposes := []string{"", "redis", "ledger", "ledger "}
	for _, by := range purposes {
		sealed := key.Derive(by).Seal("context", []byte("value"))
		for _, with := range purposes {
			_, err := key.Derive(with).Open("context", sealed)
			if by == with && err != nil {
				t.Errorf("purpose %q does not open its own: %v", by, err)
			}
			if by != with && !errors.Is(err, seal.ErrBroken) {
				t.Errorf("purpose %q opens what %q sealed: %v", with, by, err)
			}
		}
	}
}

func TestNewKeyRefusesWhatIsNoKey(t *testing.T) {
	for name, secret := range map[string][]byte{
		"nothing":           nil,
		"31 bytes":          []byte(strings.Repeat("ab", 16)[:31]),
		"zeros":             make([]byte, 64),
		"one byte repeated": bytes.Repeat([]byte("k"), 32),
	} {
		t.Run(name, func(t *testing.T) {
			key, err := seal.NewKey(secret)
			if !errors.Is(err, seal.ErrWeakKey) || !key.IsZero() {
				t.Errorf("NewKey: got %v, %v, want the zero Key and ErrWeakKey", key, err)
			}
		})
	}
}

func TestNewKeyKeepsNoReferenceToTheSecret(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	key, err := seal.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	sealed := key.Seal("context", []byte("value"))
	clear(secret)
	if _, err := key.Open("context", sealed); err != nil {
		t.Errorf("Open after the secret was cleared: %v", err)
	}
}

func TestZeroKeyMustNotSeal(t *testing.T) {
	for name, use := range map[string]func(){
		"Seal":   func() { seal.Key{}.Seal("context", nil) },
		"Mark":   func() { seal.Key{}.Mark("context", nil) },
		"Derive": func() { seal.Key{}.Derive("purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			use()
		})
	}
}

func TestMarkIsThatOfTheSealedValue(t *testing.T) {
	key := newKey(t, 1)
	sealed, mark := key.Seal("context", []byte("value")), key.Mark("context", []byte("value"))
	if !bytes.Equal(sealed[4:36], mark) {
		t.Errorf("got %x, want the mark in %x", mark, sealed)
	}
	for name, other := range map[string][]byte{
		"context": key.Mark("contex", []byte("tvalue")), "value": key.Mark("context", []byte("valu")), "key": newKey(t, 2).Mark("context", []byte("value")),
	} {
		if bytes.Equal(mark, other) {
			t.Errorf("another %s has the same mark", name)
		}
	}
}

func TestNothingPrintsTheSecret(t *testing.T) {
	key := newKey(t, 'a')
	encoded, err := json.Marshal(struct{ Key seal.Key }{key})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(encoded), `{"Key":{}}`; got != want {
		t.Errorf("as JSON: got %s, want %s", got, want)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got, want := fmt.Sprintf(verb, key), "seal.Key(…)"; got != want {
			t.Errorf("%s: got %q, want %q", verb, got, want)
		}
	}
}

// TestSealedFormStands fails when values sealed by an earlier build would no longer open. The mark was computed apart from this
// package, from the definitions of HKDF (RFC 5869) and HMAC (RFC 2104).
func TestSealedFormStands(t *testing.T) {
	key := newKey(t, 1).Derive("purpose")
	const want = "74777331" + "c8fb6e3ef560fea48d53b6c12b6e9655d2f4286002bf458dbd049e086f9f0a6e" + "76616c7565"
	if got := fmt.Sprintf("%x", key.Seal("context", []byte("value"))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzOpen(f *testing.F) {
	key := newKey(f, 1)
	f.Add("context", []byte(nil))
	f.Add("context", key.Seal("context", []byte("value")))
	f.Add("other", key.Seal("context", []byte("value")))
	f.Add("context", []byte("tws1 of another making, long enough for a mark"))
	f.Fuzz(func(t *testing.T, context string, sealed []byte) {
		value, err := key.Open(context, sealed)
		if err != nil {
			if !errors.Is(err, seal.ErrBroken) || value != nil {
				t.Fatalf("got %q, %v, want nothing and ErrBroken", value, err)
			}
			return
		}
		if again := key.Seal(context, value); !bytes.Equal(again, sealed) {
			t.Fatalf("%q opened for %q but is not what is sealed for it", sealed, context)
		}
	})
}
