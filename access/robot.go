package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/seal"
)

// robotPrefix begins the user name a robot logs in with. A ':', as in its full name, ends a user name in HTTP; a '$' is expanded by
// shells, so that "robot$ci" would log in as "robot"; a '+' passes through command lines, URLs and every client. No user of a
// htpasswd file has such a name.
const robotPrefix = "robot+"

// Limits of a robots file: some 300 bytes each.
const (
	maxRobotsBytes      = 4 << 20
	maxDescriptionBytes = 1024
)

// secretPrefix begins each secret, so that one that was published by mistake can be searched for.
const secretPrefix = "twr_"

// Robot is an account for a machine. It logs in as "robot+NAME" and is the caller "robot:NAME".
type Robot struct {
	Name string `yaml:"name" json:"name"`
	// SecretSHA256 is the SHA-256 of the secret in hexadecimal. The secret is 256 random bits, which nobody guesses however fast the
	// hash is.
	SecretSHA256 string `yaml:"secret_sha256" json:"-"`
	// Until is when it stops counting, exclusive.
	Until       time.Time `yaml:"until" json:"until"`
	Description string    `yaml:"description,omitempty" json:"description,omitempty"`
}

// robots is what a robots file says, by name. It is never modified.
type robots struct{ byName map[string]Robot }

// parseRobots reads a list of robots in YAML. Everything wrong is one error; a key that is not known is wrong.
func parseRobots(content []byte) (*robots, error) {
	list, err := decodeRobots(content)
	if err != nil {
		return nil, err
	}
	r := &robots{byName: map[string]Robot{}}
	for _, robot := range list {
		r.byName[robot.Name] = robot
	}
	return r, nil
}

func decodeRobots(content []byte) ([]Robot, error) {
	var list []Robot
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&list); err != nil && !errors.Is(err, io.EOF) { // an empty file is an empty list
		return nil, fmt.Errorf("reading robots: %w", err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one YAML document")
	}
	var problems []error
	seen := map[string]bool{}
	for i, r := range list {
		if err := r.problem(); err != nil {
			problems = append(problems, fmt.Errorf("robot %d, %.40q: %w", i+1, r.Name, err))
		} else if seen[r.Name] {
			problems = append(problems, fmt.Errorf("robot %d: %q is there twice", i+1, r.Name))
		}
		seen[r.Name] = true
	}
	return list, errors.Join(problems...)
}

// problem returns what is wrong with r.
func (r Robot) problem() error {
	sum, err := hex.DecodeString(r.SecretSHA256)
	switch {
	case !validUser(r.Name):
		return errors.New("a name that is empty, long, or has spaces, '*' or what cannot be printed")
	case err != nil || len(sum) != sha256.Size:
		return errors.New("secret_sha256 is not 64 hexadecimal digits")
	case r.Until.IsZero():
		return errors.New("until is missing")
	case len(r.Description) > maxDescriptionBytes:
		return fmt.Errorf("a description of more than %d bytes", maxDescriptionBytes)
	}
	return nil
}

// account returns the mark of a robot's account as it is now, empty if there is none that counts.
func (r *robots) account(name string, now time.Time) string {
	if r == nil {
		return ""
	}
	robot, ok := r.byName[name]
	if !ok || !now.Before(robot.Until) {
		return ""
	}
	return accountMark(robot.SecretSHA256)
}

// checkRobot returns the robot of that name and secret. It is not slowed: there is nothing to guess.
//
// Errors: *badCredentials.
func (c *Control) checkRobot(ctx context.Context, name, secret string) (Caller, error) {
	r := c.robots.get(ctx)
	if r == nil {
		return Caller{}, bad("there are no robots")
	}
	robot, ok := r.byName[name]
	want, err := hex.DecodeString(robot.SecretSHA256)
	sum := sha256.Sum256([]byte(secret))
	switch {
	case err != nil || subtle.ConstantTimeCompare(sum[:], want) != 1: // want is empty for a robot there is not
		return Caller{}, bad("no such robot, or not its secret")
	case !ok || !c.o.Now().Before(robot.Until):
		return Caller{}, bad("the robot's time is over")
	}
	return Caller{Name: "robot:" + name, until: robot.Until, account: accountMark(robot.SecretSHA256)}, nil
}

// ReadRobots returns the robots in the file at path, in its order. A file that is not there holds none.
func ReadRobots(path string) ([]Robot, error) {
	content, err := seal.ReadFile(path, maxRobotsBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading robots: %w", err)
	}
	list, err := decodeRobots(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// Errors of changing robots.
var (
	// ErrRobotExists says that there is a robot of that name already.
	ErrRobotExists = errors.New("there is a robot of that name")
	// ErrNoRobot says that there is no robot of that name.
	ErrNoRobot = errors.New("there is no robot of that name")
)

// AddRobot adds a robot to the file at path, which is made if it is not there, and returns its secret, which is nowhere else. One of
// the same name whose time is over at now is replaced.
//
// Errors: [ErrRobotExists], what is wrong with r, and whatever reading and writing return.
func AddRobot(path string, r Robot, now time.Time) (secret string, err error) {
	raw := make([]byte, sha256.Size)
	_, _ = rand.Read(raw) // never fails
	secret = secretPrefix + hex.EncodeToString(raw)
	sum := sha256.Sum256([]byte(secret))
	r.SecretSHA256 = hex.EncodeToString(sum[:])
	if err := r.problem(); err != nil {
		return "", fmt.Errorf("robot %.40q: %w", r.Name, err)
	}
	return secret, changeRobots(path, func(list []Robot) ([]Robot, error) {
		i := slices.IndexFunc(list, func(other Robot) bool { return other.Name == r.Name })
		if i >= 0 && now.Before(list[i].Until) {
			return nil, fmt.Errorf("%q: %w", r.Name, ErrRobotExists)
		}
		if i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		return append(list, r), nil
	})
}

// RevokeRobot takes a robot out of the file at path. Its tokens end with it.
//
// Errors: [ErrNoRobot], and whatever reading and writing return.
func RevokeRobot(path, name string) error {
	return changeRobots(path, func(list []Robot) ([]Robot, error) {
		kept := slices.DeleteFunc(slices.Clone(list), func(r Robot) bool { return r.Name == name })
		if len(kept) == len(list) {
			return nil, fmt.Errorf("%q: %w", name, ErrNoRobot)
		}
		return kept, nil
	})
}

// changeRobots replaces the file at path as a whole, so that whoever reads it sees one or the other. Changes at once come one after
// another.
func changeRobots(path string, change func([]Robot) ([]Robot, error)) (err error) {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("changing robots: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	list, err := ReadRobots(path)
	if err != nil {
		return err
	}
	if list, err = change(list); err != nil {
		return err
	}
	content, err := yaml.Marshal(list)
	if err != nil {
		return err
	}
	if err := replaceFile(path, content); err != nil {
		return fmt.Errorf("changing robots: %w", err)
	}
	return nil
}

// replaceFile puts content at path, complete and durable, with mode 0600.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone when all went well
	_, writeErr := f.Write(content)
	if err := errors.Join(writeErr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
