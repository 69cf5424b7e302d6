package e2e_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// bucket is a bucket of an S3 server that keeps its objects as files.
type bucket struct {
	address string
	// dir is where the objects are, under their names.
	dir string
	*process
}

const (
	bucketName   = "images"
	bucketKey    = "tidewaiter"
	bucketSecret = "the secret of the tests"
)

// newBucket starts an S3 server with an empty bucket.
func newBucket(t *testing.T) *bucket {
	t.Helper()
	path := program(t, "versitygw")
	root := t.TempDir()
	b := &bucket{address: freeAddress(t), dir: filepath.Join(root, bucketName)}
	if err := os.Mkdir(b.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, path, "--port", b.address, "--access", bucketKey, "--secret", bucketSecret, "--region", "us-east-1", "--keep-alive", "--quiet", "posix", root)
	b.process = start(t, cmd, newJournal())
	eventually(t, "the S3 server listens", func() bool { return listens(t, b.address) })
	return b
}

// freeAddress returns an address nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// listens reports whether somebody accepts connections at an address.
func listens(t *testing.T, address string) bool {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// object returns the file of a blob.
func (b *bucket) object(d oci.Digest) string {
	return filepath.Join(b.dir, "docker", "registry", "v2", "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// useBucket has the site keep everything in a bucket, with keys of its own.
func (s *site) useBucket(t *testing.T, b *bucket) {
	t.Helper()
	writeFile(t, s.path("seal.key"), fmt.Appendf(nil, "%x", ocitest.Random(32, 1)))
	writeFile(t, s.path("secret"), []byte(bucketSecret+"\n"))
	writeTokenKey(t, s.path("token.key"))
	redis, _ := s.config["redis"].(keys)
	if redis == nil {
		redis = keys{}
	}
	redis["seal_key_file"] = s.path("seal.key")
	s.config["redis"] = redis
	s.config["storage"] = keys{
		"s3": keys{
			"bucket": bucketName, "region": "us-east-1", "regionendpoint": "http://" + b.address, "forcepathstyle": true,
			"accesskey": bucketKey, "secretkey_file": s.path("secret"),
		},
		"local": s.path("local"),
	}
	access, _ := s.config["access"].(keys)
	if access != nil {
		access["tokens"] = keys{"key_file": s.path("token.key")}
	}
}

func writeTokenKey(t *testing.T, path string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(ocitest.Random(ed25519.SeedSize, 2)))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestBucket has two replicas keep everything in a bucket: what is pulled, what is denied, what is pushed.
func TestBucket(t *testing.T) {
	b := newBucket(t)
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	s.useBucket(t, b)
	large := noise(20<<20, 7) // in several parts, as random bytes do not compress
	web := s.pushSigned(t, "shop/web", shop(goodLodash, large))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	p := s.serve(t)
	blobs := s.parsed(t, "shop/web", web.Digest).Blobs()

	t.Run("a cold pull fetches each blob once, a warm one none", func(t *testing.T) {
		s.upstream.ResetRequests()
		p.mustPull(t, "shop/web")
		p.mustPull(t, "shop/web")
		if got := s.upstream.Count(http.MethodGet, ocitest.KindBlob); got < len(blobs) || got > len(blobs)+2 { // and the signature's
			t.Errorf("%d blobs were asked for, the image has %d", got, len(blobs))
		}
	})
	t.Run("what is denied is denied", func(t *testing.T) {
		if got := p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden || !strings.Contains(got.message, "CVE-2019-10744") {
			t.Errorf("status %d: %s", got.status, got.message)
		}
	})
	p.stop(t)
	p = s.serve(t)
	t.Run("after a restart nothing is judged nor fetched again", func(t *testing.T) {
		s.upstream.ResetRequests()
		p.mustPull(t, "shop/web")
		if got := p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden {
			t.Errorf("status %d", got.status)
		}
		if got := p.metric(t, "tidewaiter_verdicts_total", "decision"); got != 0 {
			t.Errorf("%v verdicts were made", got)
		}
		if got := s.upstream.Count(http.MethodGet, ocitest.KindBlob); got != 0 {
			t.Errorf("%d blobs were fetched", got)
		}
	})
	layer := blobs[len(blobs)-1]
	whole, _ := s.upstream.Blob("shop/web", layer.Digest)
	path := "/v2/" + host + "/shop/web/blobs/" + layer.Digest.String()
	t.Run("ranges are parts of the whole", func(t *testing.T) {
		for _, tt := range []struct {
			asked    string
			from, to int
		}{{"bytes=0-99", 0, 100}, {"bytes=6000000-6000009", 6000000, 6000010}, {"bytes=-5", len(whole) - 5, len(whole)}} {
			r := p.ask(t, http.MethodGet, path, "Range", tt.asked)
			if r.status != http.StatusPartialContent || !bytes.Equal(r.body, whole[tt.from:tt.to]) {
				t.Errorf("%s: status %d and %d bytes", tt.asked, r.status, len(r.body))
			}
		}
		if r := p.ask(t, http.MethodHead, path); r.status != 200 || r.header.Get("Content-Length") != fmt.Sprint(len(whole)) {
			t.Errorf("HEAD: status %d, %s bytes", r.status, r.header.Get("Content-Length"))
		}
	})
	t.Run("a spoilt object is not served whole, and then fetched again", func(t *testing.T) {
		spoil(t, b.object(layer.Digest))
		if got, err := p.body(t, path); err == nil || len(got) >= len(whole) {
			t.Errorf("got %d of %d bytes, %v", len(got), len(whole), err)
		}
		eventually(t, "it is whole again", func() bool {
			got, err := p.body(t, path)
			return err == nil && bytes.Equal(got, whole)
		})
	})
	t.Run("readiness says whether the bucket takes writes", func(t *testing.T) {
		if got := request(t, http.MethodGet, "http://"+p.admin+"/readyz").status; got != 200 {
			t.Errorf("got %d", got)
		}
	})
	other := s.serve(t)
	t.Run("an upload goes on at another replica, wherever it was cut", func(t *testing.T) {
		content := ocitest.Random(17<<20, 8)
		replicas := []pusher{{t, p, "ci"}, {t, other, "ci"}}
		offset := 0
		at := replicas[0].must(202, "POST", "/v2/apps/web/blobs/uploads/", nil).header.Get("Location")
		for i, until := range []int{100, 3000, 3 << 20, 9 << 20, 9<<20 + 1, 16 << 20} {
			u := replicas[i%2]
			u.must(202, "PATCH", at, bytes.NewReader(content[offset:until]), "Content-Range", fmt.Sprintf("%d-%d", offset, until-1))
			offset = until
			if got := replicas[(i+1)%2].must(204, "GET", at, nil).header.Get("Range"); got != fmt.Sprintf("0-%d", until-1) {
				t.Fatalf("the other replica has %s, want 0-%d", got, until-1)
			}
		}
		d := oci.FromBytes(content)
		replicas[0].must(201, "PUT", at+"?digest="+d.String(), bytes.NewReader(content[offset:]))
		if r := replicas[1].must(200, "GET", "/v2/apps/web/blobs/"+d.String(), nil); !bytes.Equal(r.body, content) {
			t.Errorf("got %d bytes, want %d", len(r.body), len(content))
		}
		replicas[1].must(202, "DELETE", "/v2/apps/web/blobs/"+d.String(), nil)
		replicas[0].must(404, "HEAD", "/v2/apps/web/blobs/"+d.String(), nil)
	})
	t.Run("what is pushed to one is had from the other, tags and signatures too, until it is deleted", func(t *testing.T) {
		ciA, ciB, nobody := pusher{t, p, "ci"}, pusher{t, other, "ci"}, pusher{t, other, ""}
		const tag = "/v2/apps/web/manifests/1.0"
		ciA.image(s.upstream, "shop/web", web.Digest, "apps/web", "1.0")
		nobody.must(403, "GET", tag, nil)
		ciB.signed(s, "shop/web", web.Digest, "apps/web", s.release)
		nobody.must(200, "GET", tag, nil)
		if r := nobody.must(200, "GET", "/v2/apps/web/blobs/"+layer.Digest.String(), nil); !bytes.Equal(r.body, whole) {
			t.Errorf("got %d bytes of a layer, want %d", len(r.body), len(whole))
		}
		if r := nobody.must(200, "GET", "/v2/apps/web/tags/list", nil); !strings.Contains(string(r.body), `"tags":["1.0"]`) {
			t.Errorf("got %s", r.body)
		}
		if got := referrersOf(ciA, "apps/web", web.Digest); len(got) != 1 {
			t.Errorf("got %d referrers, want the signature", len(got))
		}
		ciA.must(202, "DELETE", "/v2/apps/web/manifests/"+web.Digest.String(), nil)
		eventually(t, "the other has it no more", func() bool { return nobody.send("GET", tag, nil).status == 404 })
	})
	t.Run("without the bucket nothing is served nor denied, and with it again everything is", func(t *testing.T) {
		b.stop(t)
		if got := p.get(t, path).status; got != http.StatusServiceUnavailable {
			t.Errorf("a layer: %d, want 503", got)
		}
		eventually(t, "the proxy is not ready", func() bool { return request(t, http.MethodGet, "http://"+p.admin+"/readyz").status == 503 })
		b.resume(t)
		p.mustPull(t, "shop/web")
		eventually(t, "the proxy is ready", func() bool { return request(t, http.MethodGet, "http://"+p.admin+"/readyz").status == 200 })
	})
}

// stop ends the S3 server; resume starts it again over the same bucket.
func (b *bucket) stop(t *testing.T) {
	t.Helper()
	b.kill()
}

func (b *bucket) resume(t *testing.T) {
	t.Helper()
	cmd := command(t, b.cmd.Path, b.cmd.Args[1:]...)
	b.process = start(t, cmd, newJournal())
	eventually(t, "the S3 server listens", func() bool { return listens(t, b.address) })
}

// spoil changes a byte in the middle of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := info.Size() / 2
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{one[0] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
}

// body returns what of an answer arrives before the connection ends.
func (s *server) body(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.registry+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it goes
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.ReadAll(resp.Body)
}
