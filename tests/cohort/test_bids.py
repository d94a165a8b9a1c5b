import json

from landmarking.cohort.bids import (
    Participant,
    read_participants,
    scan_path,
    tissue_paths,
    write_description,
    write_participants,
)


def test_people_left_out_are_kept_in_the_table(tmp_path):
    people = [
        Participant("sub-01", "train", 74.5, "F"),
        Participant("sub-03", "DS", None, exclude="moved"),
    ]
    write_participants(tmp_path, people)
    assert read_participants(tmp_path) == {row.participant_id: row for row in people}


def test_a_tree_says_what_it_is(tmp_path):
    write_description(tmp_path, "three people", simulated=True)
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (description["Name"], description["Simulated"]) == ("three people", True)


def test_tissue_maps_are_named_after_their_scan(tmp_path):
    image = scan_path(tmp_path, "sub-02", "ses-1").with_suffix("")
    grey, _, _ = tissue_paths(tmp_path / "derivatives/x", image, tmp_path)
    folder = tmp_path / "derivatives/x/sub-02/ses-1/anat"
    assert grey == folder / "sub-02_ses-1_label-GM_probseg.nii.gz"
