package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/oci"
)

// tokenPath is where the token service is, at the registry address (distribution-spec, token authentication).
const tokenPath = "/token"

// openAccess opens the audit log, and what knows callers and what they may do.
func (in *instance) openAccess() (err error) {
	if in.audit, err = audit.Open(audit.Options{Path: in.config.Audit.Path, Key: in.key, Log: in.log}); err != nil {
		return err
	}
	in.closers = append(in.closers, in.audit.Close)
	if err := in.recordStart(context.Background()); err != nil {
		return err
	}
	o := in.config.access()
	o.Repository, o.Log, o.Observe = in.repository, in.log, in.meters.accessed
	o.Audit = access.AuditFunc(in.putOnRecord)
	if o.KeyFile == "" && (o.HtpasswdFile != "" || o.RobotsFile != "" || len(o.Issuers) > 0) {
		if o.KeyFile, err = ownTokenKey(in.storage.root); err != nil {
			return err
		}
	}
	if in.access, err = access.New(o); err != nil {
		return usageError(err)
	}
	return nil
}

// ownTokenKey returns the file of a key for tokens in the storage, made if there is none. There always is a token service where there are
// credentials, because many clients show theirs nowhere else, and those without get a token for nobody from it.
func ownTokenKey(root string) (string, error) {
	if err := os.MkdirAll(root, 0o750); err != nil {
		return "", err
	}
	path := filepath.Join(root, "token.key")
	if err := access.CreateTokenKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return path, nil
}

// repository returns the repository clients mean by a name in a path.
func (in *instance) repository(name string) (oci.Repository, error) {
	return oci.Request{Name: name}.Repository(in.config.DefaultUpstream, in.hosted.Hosts)
}

// withTokens returns what answers clients: the token service, where there is one, and registry for everything else.
func (in *instance) withTokens(registry http.Handler) http.Handler {
	if !in.access.HasTokens() {
		return registry
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == tokenPath {
			in.access.ServeHTTP(w, r)
			return
		}
		registry.ServeHTTP(w, r)
	})
}
