package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// A blob's name is its digest, so a server that gives the rest of it another entity tag (another node of a CDN does) is not asked to
// send it all again; bytes of something else are for the reader to find. Each time it is the registry that says where the rest lies:
// the permission to read what it redirected to may have lapsed meanwhile.
func TestBlobIsResumedWhereverTheRegistryLeads(t *testing.T) {
	const part = 100_000
	body := content(3 * part)
	var sent atomic.Int32
	storage := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := sent.Add(1)
		if r.URL.RawQuery != fmt.Sprintf("signature=%d", n) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("\"%d\"", n))
		sendPart(w, body, rangeStart(r), part)
	})
	var asked atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, fmt.Sprintf("%s/blob?signature=%d", storage.URL, asked.Add(1)), http.StatusTemporaryRedirect)
	})
	got, err := readBlob(t, open(t, Options{}, configFor(s)), body)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(body))
	}
	if diff := cmp.Diff(storage.headers("Range"), []string{"", "bytes=100000-", "bytes=200000-"}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	if diff := cmp.Diff(storage.headers("If-Range"), []string{"", "", ""}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

// A server that has put something else in a blob's place gets its bytes in, and the digest finds them out.
func TestRestOfAnotherBlobIsFoundOut(t *testing.T) {
	const part = 100_000
	body := content(2 * part)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		from := rangeStart(r)
		if from > 0 {
			sendPart(w, make([]byte, len(body)), from, part)
			return
		}
		sendPart(w, body, 0, part)
	})
	if _, err := readBlob(t, open(t, Options{}, configFor(s)), body); !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("got %v, want %v", err, oci.ErrMismatch)
	}
}
