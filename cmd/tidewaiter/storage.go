package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	s3 "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"
)

// storage is where things are kept: what must last in a driver, which is one folder on this machine or one bucket of a fleet.
type storage struct {
	driver storagedriver.StorageDriver
	// root is the folder the driver keeps plain files in; empty when it keeps none.
	root string
	// local is a folder on this machine for what can be had again: blobs that are arriving, the advisory database.
	local string
}

// openStorage opens what the configuration names. A bucket is not asked for anything yet: whether it takes writes is what readiness
// tells, and what is pulled meanwhile gets a 503.
func (c *config) openStorage(ctx context.Context) (storage, error) {
	if c.Storage.S3 == nil {
		root, err := filepath.Abs(c.Storage.Filesystem.Root)
		driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: storageThreads})
		return storage{driver: driver, root: root, local: filepath.Join(root, "tidewaiter")}, err
	}
	local, err := filepath.Abs(c.Storage.Local)
	if err != nil {
		return storage{}, err
	}
	parameters, err := c.s3Parameters()
	if err != nil {
		return storage{}, usageError(err)
	}
	// The driver's library sends everything through this transport, and has no place to give it another. As it comes it keeps two idle
	// connections and makes a new one, with a handshake, for every request beyond.
	if shared, ok := http.DefaultTransport.(*http.Transport); ok {
		shared.MaxIdleConnsPerHost = storageThreads
	}
	driver, err := s3.FromParameters(ctx, parameters)
	if err != nil {
		return storage{}, usageError(fmt.Errorf("storage.s3: %w", err))
	}
	return storage{driver: &objectStore{driver: driver, patience: storagePatience}, local: local}, nil
}

// localRoot is where what can be had again lies, on this machine.
func (c *config) localRoot() string {
	if c.Storage.S3 != nil {
		return c.Storage.Local
	}
	return filepath.Join(c.Storage.Filesystem.Root, "tidewaiter")
}

// s3Keys are the driver's own keys that can be written, and secretkey_file. Not among them are those that switch safety off (skipverify,
// v4auth), log what is sent (loglevel), or are about answers that are redirections (redirectendpoint).
var s3Keys = []string{
	"accelerate", "accesskey", "bucket", "chunksize", "encrypt", "forcepathstyle", "keyid", "multipartcopychunksize",
	"multipartcopymaxconcurrency", "multipartcopythresholdsize", "objectacl", "region", "regionendpoint", "rootdirectory", "secretkey",
	"secretkey_file", "secure", "storageclass", "usedualstack", "usefipsendpoint",
}

// privateACLs are those under which nobody but the bucket's owner reads what was denied.
var privateACLs = []any{nil, "private", "bucket-owner-read", "bucket-owner-full-control"}

// storageProblems returns what is wrong with storage as far as the configuration alone can tell. Nothing of it repeats a value, which
// may be a secret.
func (c *config) storageProblems() []error {
	var found []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			found = append(found, fmt.Errorf(format, args...))
		}
	}
	if c.Storage.S3 == nil {
		problem(c.Storage.Filesystem.Root == "", "storage.filesystem.root is empty")
		problem(c.Storage.Local != "", "storage.local is for storage.s3: with a folder everything lies in that")
		problem(c.Storage.UnsafePlaintext, "storage.unsafe_plaintext is for storage.s3")
		return found
	}
	written := c.Storage.S3
	for _, key := range slices.Sorted(maps.Keys(written)) {
		problem(!slices.Contains(s3Keys, key), "storage.s3.%s is not a key that can be set", key)
	}
	problem(written["bucket"] == nil, "storage.s3 needs a bucket")
	problem(written["region"] == nil, "storage.s3 needs a region")
	problem((written["accesskey"] == nil) != (written["secretkey"] == nil && written["secretkey_file"] == nil), "storage.s3: accesskey needs secretkey_file or secretkey, and they it")
	problem(written["secretkey"] != nil && written["secretkey_file"] != nil, "storage.s3 has secretkey and secretkey_file")
	problem(!slices.Contains(privateACLs, written["objectacl"]), "storage.s3.objectacl lets others read what was denied")
	problem(!c.Storage.UnsafePlaintext && sendsPlaintext(written), "storage.s3 is reached by plain http and is not on loopback, so it needs https or storage.unsafe_plaintext: true")
	problem(c.Storage.Local == "", "storage.s3 needs storage.local, a folder on this machine for what is arriving")
	problem(c.Redis.SealKeyFile == "", "storage.s3 needs redis.seal_key_file: a key that lay in the bucket would guard nothing")
	a := c.Access
	tokens := a.Basic.HtpasswdFile != "" || a.Tokens.RobotsFile != "" || len(a.OIDC) > 0
	problem(tokens && a.Tokens.KeyFile == "", "storage.s3 needs access.tokens.key_file, the same for every replica, where callers log in")
	return found
}

// sendsPlaintext reports whether what is stored goes over a network unencrypted.
func sendsPlaintext(written map[string]any) bool {
	endpoint := fmt.Sprint(written["regionendpoint"])
	if written["regionendpoint"] == nil {
		endpoint = ""
	}
	u, err := url.Parse(endpoint)
	if err == nil && u.Host != "" {
		ip := net.ParseIP(u.Hostname())
		return u.Scheme != "https" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
	}
	return fmt.Sprint(written["secure"]) == "false"
}

// maxSecretBytes bounds a secret key. Those of every vendor are some dozen characters.
const maxSecretBytes = 4 << 10

// s3Parameters returns the driver's parameters.
func (c *config) s3Parameters() (map[string]any, error) {
	parameters := maps.Clone(c.Storage.S3)
	file, ok := parameters["secretkey_file"].(string)
	delete(parameters, "secretkey_file")
	if !ok {
		return parameters, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("storage.s3.secretkey_file: %w", err)
	}
	secret := make([]byte, maxSecretBytes)
	n, _ := f.Read(secret) // what is missing is an empty secret
	_ = f.Close()          // only read from
	parameters["secretkey"] = strings.TrimSpace(string(secret[:n]))
	if parameters["secretkey"] == "" {
		return nil, errors.New("storage.s3.secretkey_file holds nothing")
	}
	return parameters, nil
}

// How often a bucket is asked whether it takes writes, however often readiness is, and for how long.
const (
	tryEvery   = 5 * time.Second
	tryTimeout = 5 * time.Second
)

// readyPath is the object that is written to find out.
const readyPath = "/tidewaiter/ready"

// writability tells whether a storage takes writes. It is safe for concurrent use.
type writability struct {
	mu      sync.Mutex
	triedAt time.Time // guarded by mu
	err     error     // guarded by mu; what came of it
}

// try writes something small. A folder is tried each time, a bucket, where it costs money, every so often.
func (w *writability) try(ctx context.Context, s storage, now time.Time) error {
	if s.root != "" {
		return tryWriting(s.root)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.triedAt); age >= 0 && age < tryEvery {
		return w.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout) // the answer is not only this caller's
	defer cancel()
	w.err, w.triedAt = s.driver.PutContent(ctx, readyPath, []byte("ready\n")), now
	return w.err
}
