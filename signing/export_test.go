package signing

import (
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Checker returns what is left of [Verifier.Verify] once everything is fetched: reading a layer, and asking a whether it made it.
func Checker(a gate.Authority, c gate.Candidate, wanted gate.Wanted) (func(layer oci.Descriptor, body []byte) error, error) {
	loaded, err := loadAuthority(a, nil)
	if err != nil {
		return nil, err
	}
	s := subject{
		Candidate: c, names: namesOf(c.Repository, nil), MediaType: wanted.MediaType, SizeBytes: wanted.SizeBytes,
		attested: func(string) bool { return false },
	}
	now := time.Now()
	return func(layer oci.Descriptor, body []byte) error {
		claim, err := formats[layer.MediaType].read(s, offer{layer: layer}, body)
		if err == nil {
			_, err = loaded.made(claim, now)
		}
		return err
	}, nil
}
