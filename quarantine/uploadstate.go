package quarantine

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxUploadState bounds what is noted about an upload: a repository's name, a few numbers, and some 110 bytes of a hash.
const maxUploadState = 4 << 10

// sessionPattern is what [rand.Text] makes.
var sessionPattern = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// uploadState is what is noted beside the bytes of an upload. Once Blob is set, the bytes have proved to be that blob's and nothing
// can be added to them; what remains is the claim, until it is purged.
type uploadState struct {
	Repository string `json:"repository"`
	// Offset is after how many bytes Hash was the state of their sha256.
	Offset int64      `json:"offset"`
	Hash   []byte     `json:"hash,omitempty"`
	Blob   oci.Digest `json:"blob,omitempty"`
}

// claim is the name of what the upload called session claims.
func (s uploadState) claim(session string) string {
	return repositoryMark(oci.Repository{Path: s.Repository}) + "upload-" + session
}

func uploadPath(session string) string { return path.Join(uploadsPath, session) }

func uploadData(session string) string { return path.Join(uploadPath(session), "data") }

func uploadNote(session string) string { return path.Join(uploadPath(session), "state") }

// putUploadState writes the note of an upload.
func (s *store) putUploadState(ctx context.Context, session string, state uploadState) error {
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return s.driver.PutContent(ctx, uploadNote(session), b)
}

// uploadState reads the note of an upload. Errors: errNotHeld, also for one that is none.
func (s *store) uploadState(ctx context.Context, session string) (uploadState, error) {
	b, err := s.read(ctx, uploadNote(session), maxUploadState)
	if err != nil {
		return uploadState{}, err
	}
	var state uploadState
	if err := json.Unmarshal(b, &state); err != nil {
		return uploadState{}, fmt.Errorf("the note of the upload %s: %v: %w", session, err, errNotHeld)
	}
	return state, nil
}

// uploadTouched returns when an upload was last added to, by the clock of the storage.
func (s *store) uploadTouched(ctx context.Context, session string) (time.Time, error) {
	info, err := s.driver.Stat(ctx, uploadNote(session))
	if isNotFound(err) { // it is being started, or was half removed
		info, err = s.driver.Stat(ctx, uploadPath(session))
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// uploads lists the sessions there are.
func (s *store) uploads(ctx context.Context) ([]string, error) {
	paths, err := s.driver.List(ctx, uploadsPath)
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	var sessions []string
	for _, p := range paths {
		if session := path.Base(p); sessionPattern.MatchString(session) {
			sessions = append(sessions, session)
		}
	}
	return sessions, nil
}
