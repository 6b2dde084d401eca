//! Agreement with OpenCLIP, NumPy and scikit-learn on small features. `reference/make_goldens.py` makes the numbers.

use burn::tensor::{DType, Device, Tensor, TensorData};
use clip_zeroshot::{
    ClassNames, Classifier, ClassifierHead, EncodeTexts, Templates, ZeroShotError,
    probe::{LinearProbe, LogisticRegression, Samples},
    retrieve,
};
use serde_json::Value;

/// Products of a handful of f32 numbers near 1, against f64.
const TOLERANCE: f64 = 1e-5;

fn goldens(part: &str) -> Value {
    let goldens: Value = serde_json::from_str(include_str!("reference/goldens.json")).unwrap();
    goldens[part].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(rows) => rows.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn matrix(value: &Value) -> Tensor<2> {
    let rows = value.as_array().unwrap().len();
    let values = numbers(value);
    let shape = [rows, values.len() / rows];
    Tensor::from_data(
        TensorData::new(values, shape),
        (&Device::flex(), DType::F32),
    )
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        assert!(
            (got - expected).abs() <= allowed,
            "number {at}: got {got}, expected {expected}"
        );
    }
}

fn assert_tensor(got: Tensor<2>, expected: &Value) {
    let got = got.try_into_vec_as::<f64>().unwrap();
    assert_close(&got, &numbers(expected), TOLERANCE);
}

/// Looks features up, as the script's encoder does.
struct Lookup(Value);

impl EncodeTexts for Lookup {
    fn encode_texts(&self, texts: &[String]) -> Result<Tensor<2>, ZeroShotError> {
        let rows: Vec<Value> = texts.iter().map(|text| self.0[text].clone()).collect();
        Ok(matrix(&Value::Array(rows)))
    }

    fn model_hash(&self) -> String {
        "lookup".to_owned()
    }
}

#[test]
fn head_logits_and_probabilities_are_openclips() {
    let golden = goldens("head");
    let names = ClassNames::from_list(&strings(&golden["names"]), "goldens").unwrap();
    let templates = strings(&golden["templates"]).join("\n");
    let templates = Templates::from_text(&templates, "goldens").unwrap();
    let head = ClassifierHead::build(&Lookup(golden["prompts"].clone()), &names, &templates);
    let head = head.unwrap();
    assert_tensor(head.weights(), &golden["weights"]);
    let factor = golden["temperature_factor"].as_f64().unwrap() as f32;
    let classifier = Classifier::new(head, factor);
    let images = matrix(&golden["images"]);
    assert_tensor(
        classifier.logits(images.clone()).unwrap(),
        &golden["logits"],
    );
    assert_tensor(
        classifier.probabilities(images).unwrap(),
        &golden["probabilities"],
    );
}

#[test]
fn retrieval_of_pairs_is_openclips() {
    let golden = goldens("pairs");
    let pairs: Vec<usize> = (0..golden["images"].as_array().unwrap().len()).collect();
    let got = retrieve(matrix(&golden["images"]), matrix(&golden["texts"]), &pairs).unwrap();
    let got = serde_json::to_value(got.report).unwrap();
    for (ours, theirs) in [("i2t", "image_to_text"), ("t2i", "text_to_image")] {
        for (ours_key, theirs_key) in [
            ("r1", "R@1"),
            ("r5", "R@5"),
            ("r10", "R@10"),
            ("median_rank", "median_rank"),
            ("mean_rank", "mean_rank"),
        ] {
            let got = numbers(&got[format!("{ours}_{ours_key}")]);
            let expected = numbers(&golden["metrics"][format!("{theirs}_{theirs_key}")]);
            assert_close(&got, &expected, 1e-9);
        }
    }
}

#[test]
fn retrieval_of_several_captions_is_a_sort_of_the_whole_matrix() {
    let golden = goldens("captions");
    let owner: Vec<usize> = serde_json::from_value(golden["owner"].clone()).unwrap();
    let got = retrieve(matrix(&golden["images"]), matrix(&golden["texts"]), &owner).unwrap();
    let got = serde_json::to_value(got.report).unwrap();
    for (key, expected) in golden["expected"].as_object().unwrap() {
        assert_close(&numbers(&got[key]), &numbers(expected), 1e-9);
    }
}

/// Labels and features in f64, as the script has them.
fn samples(golden: &Value, split: &str, classes: usize) -> Samples {
    let labels: Vec<u32> = serde_json::from_value(golden["labels"].clone()).unwrap();
    let features = matrix(&golden[split]).cast(DType::F64);
    Samples::new(features, &labels, classes).unwrap()
}

/// Fits to the optimum, so that what remains is the two optimisers' tolerance.
fn fit(golden: &Value, classes: usize, strength: f64) -> LinearProbe {
    let mut regression = LogisticRegression::new(strength);
    regression.optimizer.gradient_tolerance = 1e-9;
    regression.fit(&samples(golden, "train", classes)).unwrap()
}

fn host(tensor: Tensor<2>) -> Vec<f64> {
    tensor.try_into_vec_as::<f64>().unwrap()
}

fn strength(fit: &Value) -> f64 {
    fit["strength"].as_f64().unwrap()
}

#[test]
fn the_probe_is_scikit_learns() {
    let golden = goldens("probe");
    // A constant added to all biases changes nothing, so only their differences are determined.
    let centred = |bias: &[f64]| -> Vec<f64> {
        let mean = bias.iter().sum::<f64>() / bias.len() as f64;
        bias.iter().map(|bias| bias - mean).collect()
    };
    for expected in golden["fits"].as_array().unwrap() {
        let probe = fit(&golden, 3, strength(expected));
        let bias = numbers(&expected["bias"]);
        assert_close(
            &host(probe.weights()),
            &numbers(&expected["weights"]),
            TOLERANCE,
        );
        assert_close(&centred(&host(probe.bias())), &centred(&bias), TOLERANCE);
        let accuracy = probe.accuracy(&samples(&golden, "test", 3)).unwrap();
        assert_close(&[accuracy], &numbers(&expected["accuracy"]), 1e-9);
    }
}

#[test]
fn the_probe_of_two_classes_is_scikit_learns() {
    let golden = goldens("binary_probe");
    let difference = |columns: Vec<f64>| -> Vec<f64> {
        columns.chunks(2).map(|pair| pair[1] - pair[0]).collect()
    };
    for expected in golden["fits"].as_array().unwrap() {
        let probe = fit(&golden, 2, strength(expected));
        let (weights, bias) = (host(probe.weights()), host(probe.bias()));
        assert_close(
            &difference(weights),
            &numbers(&expected["weights"]),
            TOLERANCE,
        );
        assert_close(&difference(bias), &numbers(&expected["bias"]), TOLERANCE);
        let accuracy = probe.accuracy(&samples(&golden, "test", 2)).unwrap();
        assert_close(&[accuracy], &numbers(&expected["accuracy"]), 1e-9);
    }
}

/// With the default tolerance both stop far from the optimum, so the way there counts too.
#[test]
fn the_probe_stops_where_scikit_learns_stops() {
    let golden = goldens("probe");
    for expected in golden["fits"].as_array().unwrap() {
        let regression = LogisticRegression::new(strength(expected));
        let probe = regression.fit(&samples(&golden, "train", 3)).unwrap();
        assert_eq!(probe.iterations(), expected["early_iterations"]);
        assert_close(
            &host(probe.weights()),
            &numbers(&expected["early_weights"]),
            TOLERANCE,
        );
    }
}
