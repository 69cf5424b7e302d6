package audit

import (
	"bytes"
	"testing"

	"github.com/tidewaiter/tidewaiter/seal"
)

func testKey(t testing.TB) seal.Key {
	t.Helper()
	key, err := seal.NewKey([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func FuzzLine(f *testing.F) {
	key := testKey(f)
	good, _, err := line{Sequence: 2, Event: Event{Event: "access.refused", Caller: "user:ci"}, Previous: string(noMark)}.encode(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimSpace(good))
	f.Add([]byte(`{"seq":1,"hash":"`))
	f.Add(bytes.Repeat([]byte("a"), 80))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, m, ok := decode(key, text)
		if !ok {
			return
		}
		again, mark, err := l.encode(key)
		if err != nil || mark != m || !bytes.Equal(bytes.TrimSuffix(again, []byte("\n")), text) {
			t.Errorf("%q holds, and is written %q: %v", text, again, err)
		}
	})
}

func FuzzHead(f *testing.F) {
	key := testKey(f)
	f.Add(head{12, 3456, noMark}.encode(key))
	f.Add([]byte("00000000000000000012"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if h, ok := decodeHead(key, text); ok && !bytes.Equal(h.encode(key), text) {
			t.Errorf("%q holds, and is written %q", text, h.encode(key))
		}
	})
}

func TestHeadsAreOfOneSize(t *testing.T) {
	for _, h := range []head{{0, 0, noMark}, {1<<64 - 1, 1<<63 - 1, noMark}} {
		encoded := h.encode(testKey(t))
		if got, ok := decodeHead(testKey(t), encoded); !ok || got != h || len(encoded) != headBytes {
			t.Errorf("%+v: got %+v, %t, %d bytes, want %d", h, got, ok, len(encoded), headBytes)
		}
	}
}
